"""The README's walk by hand does what it says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from fruit_pipeline.checks import check_run
from image_features.contract import RunLayout


def test_the_walk_by_hand_ends_with_checked_embeddings(repo: Path, tmp_path: Path):
    section = (repo / "README.md").read_text().partition("## By hand, without Airflow")[2]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block
    script = block[1].replace("/tmp/walk", str(tmp_path)).replace(".venv/bin/activate", "$VENV/bin/activate")
    environment = {
        **os.environ,
        "VENV": str(repo / ".venv"),
        "PYSPARK_PYTHON": str(repo / ".venv" / "bin" / "python"),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = check_run(RunLayout(f"file://{tmp_path}/run"))
    assert (report.images, report.features, report.components) == (240, 240, 50)
