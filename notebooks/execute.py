"""Executes the notebooks and saves their output, each in its own file.

    python notebooks/execute.py --images ~/fruits --weights ~/mobilenetv2_no_top.h5

The first notebook makes a run of these images below a temporary folder; the other two read it. Output on
stderr is left out. Notebook 03 is for the PySpark kernel of JupyterHub on EMR; without a cluster it is
rehearsed, see `rehearse`.

Exit codes: 0 done, 2 bad input (one line on stderr).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from image_features import cli
from image_features.arguments import Parser, at_least_one
from image_features.errors import JobError
from local_emr.node.java import find_java_home

HERE = Path(__file__).resolve().parent
STEP_BY_STEP = HERE / "01_local_step_by_step.ipynb"
EXPLORE = HERE / "02_explore_results.ipynb"
ON_EMR = HERE / "03_emr_jupyterhub.ipynb"

BROKEN = "Broken files"

_CELL_SECONDS = 1800

# The session's Python on EMR has the packages of bootstrap/requirements-node.in, but none of these.
_SESSION_START = """
import sys
sys.modules.update(dict.fromkeys(["pandas", "matplotlib", "sklearn", "tensorflow", "fruit_pipeline"]))
from pyspark.sql import SparkSession
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.sql.shuffle.partitions", "4")
    .getOrCreate()
)
sc = spark.sparkContext
"""
# Jupyter's container has neither Spark nor the job code.
_LOCAL_START = """
%matplotlib inline
import sys
sys.modules.update(dict.fromkeys(["pyspark", "image_features", "fruit_pipeline"]))
"""


def with_broken_files(images: Path, target: Path) -> Path:
    """Copy a folder of images, and add a label with three files that do not decode; return the copy."""
    shutil.copytree(images, target)
    (target / BROKEN).mkdir()
    whole = next(target.glob("*/*.jpg")).read_bytes()
    for name, content in (
        ("empty.jpg", b""),
        ("cut_short.jpg", whole[: len(whole) // 2]),
        ("a_text.jpg", b"This is not a picture."),
    ):
        (target / BROKEN / name).write_bytes(content)
    return target


def environment(scratch: Path, **variables: str) -> dict[str, str]:
    """The environment of the kernels; ``variables`` are those of the notebooks."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("FRUITS_")},
        "FRUITS_CACHE_DIR": os.environ.get("FRUITS_CACHE_DIR", str(HERE.parent / ".cache")),
        "IPYTHONDIR": str(scratch / "ipython"),
        "JAVA_HOME": str(find_java_home()),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(scratch),
        **variables,
    }


def execute(path: Path, env: Mapping[str, str]) -> NotebookNode:
    """Run a notebook from top to bottom in new kernels; return it with its output.

    Raises nbclient's CellExecutionError at the first cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if notebook.metadata.kernelspec.name == "pysparkkernel":
        rehearse(notebook, env)
    else:
        with _kernel(notebook, env) as client:
            for at, cell in enumerate(notebook.cells):
                client.execute_cell(cell, at)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


@contextmanager
def _kernel(notebook: NotebookNode, env: Mapping[str, str]) -> Iterator[NotebookClient]:
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=_CELL_SECONDS, record_timing=False, coalesce_streams=True
    )
    with client.setup_kernel(env=dict(env)):
        yield client


def rehearse(notebook: NotebookNode, env: Mapping[str, str]) -> None:
    """Run a notebook of sparkmagic's PySpark kernel without EMR, in two kernels of this machine.

    Plain cells run in the session: a Python with Spark, and without the packages that a node's Python
    lacks. ``%%local`` cells run in another Python, without Spark. ``%%spark -o`` copies rows from one to
    the other as JSON, as sparkmagic does. Livy, YARN, JupyterHub, and s3:// in Spark exist on EMR only.
    """
    with (
        _kernel(nbformat.v4.new_notebook(), env) as session,
        _kernel(nbformat.v4.new_notebook(), env) as local,
        tempfile.TemporaryDirectory() as folder,
    ):
        _run(session, _SESSION_START)
        _run(local, _LOCAL_START)
        count = 0
        for cell in notebook.cells:
            if cell.cell_type != "code":
                continue
            magic, _, body = cell.source.partition("\n") if cell.source.startswith("%%") else ("", "", "")
            if not magic:
                cell.outputs = _run(session, cell.source)
            elif magic.split()[0] == "%%local":
                cell.outputs = _run(local, body)
            elif magic.split()[0] == "%%spark":
                cell.outputs = _run(session, body)
                _carry(magic, session, local, Path(folder) / "rows.json")
            else:
                raise ValueError(f"{magic}: only %%local and %%spark are rehearsed")
            count += 1
            cell.execution_count = count
            for out in cell.outputs:
                if "execution_count" in out:
                    out.execution_count = count


def _run(client: NotebookClient, source: str) -> list[NotebookNode]:
    client.nb.cells = [nbformat.v4.new_code_cell(source)]
    return client.execute_cell(client.nb.cells[0], 0).outputs


def _carry(magic: str, session: NotebookClient, local: NotebookClient, rows: Path) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-o", dest="name", required=True)
    parser.add_argument("-n", dest="limit", type=int, default=2500)
    options = parser.parse_args(shlex.split(magic)[1:])
    _run(
        session,
        f"with open({str(rows)!r}, 'w') as file:\n"
        f"    for row in {options.name}.toJSON().take({options.limit}):\n"
        "        print(row, file=file)",
    )
    _run(
        local,
        "import json\nimport pandas\n"
        f"{options.name} = pandas.DataFrame([json.loads(row) for row in open({str(rows)!r})])",
    )


def write(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook; the same content gives the same bytes."""
    notebook.metadata.get("language_info", {}).pop("version", None)
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def execute_all(images: Path, weights: str, per_label: int) -> None:
    if not images.is_dir():
        raise JobError(f"{images} is no folder; give one with a sub-folder a label")
    if not re.fullmatch(r"imagenet|random:\d+", weights) and not Path(weights).is_file():
        raise JobError(f"the weights file {weights} does not exist; or give imagenet, or random:<seed>")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        env = environment(
            work,
            FRUITS_WORK=str(work / "walk"),
            FRUITS_IMAGES=str(with_broken_files(images, work / "images")),
            FRUITS_WEIGHTS=weights,
            FRUITS_PER_LABEL=str(per_label),
            FRUITS_RUN=str(work / "walk" / "run"),
        )
        for path in (STEP_BY_STEP, EXPLORE, ON_EMR):
            notebook = execute(path, env)
            write(path, notebook)
            print(f"{path.name}: {path.stat().st_size / 1e3:.0f} KB", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="<label>/<image>")
    parser.add_argument("--weights", required=True, help="imagenet, a Keras weights file, or random:<seed>")
    parser.add_argument("--per-label", type=at_least_one, default=20, help="default: %(default)s")
    args = parser.parse_args(argv)
    return cli.main(lambda: execute_all(args.images, args.weights, args.per_label))


if __name__ == "__main__":
    sys.exit(main())
