"""The command and the environment of a step on this machine.

Two kinds of step run: ``spark-submit`` through command-runner.jar, and a script from a bucket through
script-runner.jar. All others are refused.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from local_emr.node import s3, spark_args, spark_conf
from local_emr.node.filesystem import Node

SCRIPT_RUNNER = re.compile(r"(s3://([\w-]+\.)?elasticmapreduce/libs/script-runner/)?script-runner\.jar")
PYTHONS = {  # settings of Spark, each with the variable of the same meaning
    "spark.pyspark.python": "PYSPARK_PYTHON",
    "spark.pyspark.driver.python": "PYSPARK_DRIVER_PYTHON",
}
CODE_FROM_ELSEWHERE = re.compile(r"spark\.jars\.(packages|repositories|ivy\w*)")
FILE_SETTINGS = {
    "spark.submit.pyFiles": "--py-files",
    "spark.files": "--files",
    "spark.archives": "--archives",
    "spark.jars": "--jars",
}


class RefusedError(Exception):
    """The local EMR does not run the step; the message has the reason."""


@dataclass
class Command:
    """``notes`` are lines for the controller log: each setting left out or changed, with the reason."""

    argv: list[str]
    env: dict[str, str]
    notes: list[str] = field(default_factory=list)


class CommandBuilder:
    """Builds the commands for the steps of one cluster."""

    def __init__(self, node: Node, configurations: Sequence[Mapping[str, Any]], client: Any) -> None:
        self.node = node
        self.configurations = configurations
        self.client = client

    def build(self, jar: str, args: Sequence[str], work: Path, env: dict[str, str]) -> Command:
        """The command of a step whose working directory is ``work``.

        Raises RefusedError, and s3.S3Error when a file of the step cannot be downloaded.
        """
        if SCRIPT_RUNNER.fullmatch(jar):
            return self._script(args, work, env)
        if jar == "command-runner.jar" and args and args[0] == "spark-submit":
            return self._spark(args[1:], work, env)
        program = f"command-runner.jar with {args[0]!r}" if jar == "command-runner.jar" and args else jar
        raise RefusedError(
            f"local EMR does not run {program}: only command-runner.jar with spark-submit, "
            "and script-runner.jar with a script from an s3:// bucket"
        )

    def _script(self, args: Sequence[str], work: Path, env: dict[str, str]) -> Command:
        if not args or not args[0].startswith("s3://"):
            raise RefusedError(
                f"script-runner.jar runs scripts from s3:// only, not {args[0] if args else 'nothing'!r}"
            )
        script = work / _plain_name(args[0])
        s3.fetch(self.client, args[0], script)
        return Command(["bash", str(script), *args[1:]], {**env, **spark_conf.exports(self.configurations)})

    def _spark(self, args: Sequence[str], work: Path, env: dict[str, str]) -> Command:
        try:
            submit = spark_args.parse(args)
        except spark_args.BadArgumentsError as error:
            raise RefusedError(str(error)) from error
        adapted = spark_conf.adapt(
            {**spark_conf.spark_defaults(self.configurations), **submit.conf}, self.node.settings
        )
        remote_code = next((name for name in adapted.conf if CODE_FROM_ELSEWHERE.fullmatch(name)), None)
        if remote_code:
            raise RefusedError(
                "local EMR takes code from s3:// buckets only: put the jars there and name them with --jars, "
                f"in place of {remote_code}"
            )
        for name, option in FILE_SETTINGS.items():
            value = adapted.conf.pop(name, None)
            if value:  # this Spark reads no s3://: downloaded like the files of the option
                submit.files.setdefault(option, [item for item in value.split(",") if item])
        env = {**env, **spark_conf.exports(self.configurations), **adapted.env}
        spark_home = _spark_home()
        executors = bool(self.node.settings.worker_memory_mb)
        if executors:
            spark_home = _private_spark_home(spark_home, work / "spark")
        env.update(SPARK_HOME=str(spark_home), SPARK_CONF_DIR=str(work / "conf"), PYTHONUNBUFFERED="1")
        self._choose_python(adapted.conf, env)
        conf = {
            **adapted.conf,
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.local.dir": str(work / "tmp"),
        }
        (work / "conf").mkdir(exist_ok=True)
        (work / "conf" / "spark-defaults.conf").write_text(
            "".join(f"{k} {_property(v)}\n" for k, v in conf.items())
        )
        argv = [str(spark_home / "bin" / "spark-submit"), "--master", self.node.settings.master]
        argv += ["--deploy-mode", "client", *submit.options]
        for option, uris in submit.files.items():
            paths = [self._place(uri, work, unpack=option == "--archives") for uri in uris]
            # The driver has the archives unpacked, as on YARN; separate executors unpack them again.
            if option != "--archives" or executors:
                argv += [option, ",".join(paths)]
        argv += [self._place(submit.application, work), *submit.arguments]
        return Command(argv, env, adapted.notes + submit.notes)

    def _choose_python(self, conf: dict[str, str], env: dict[str, str]) -> None:
        """Sets the Python of driver and workers to the node's; as in Spark, a setting wins."""
        for setting, variable in PYTHONS.items():
            chosen = conf.pop(setting, None) or env.get(variable)
            if chosen:
                env[variable] = self.node.resolve(chosen)
        env.setdefault("PYSPARK_PYTHON", self.node.settings.python)
        env.setdefault("PYSPARK_DRIVER_PYTHON", env["PYSPARK_PYTHON"])

    def _place(self, uri: str, work: Path, unpack: bool = False) -> str:
        """Puts a file of the step into ``work`` under its own name or its ``#alias``; returns its path.

        Raises RefusedError for another scheme than S3's, and for a path outside of the node.
        """
        source, _, alias = uri.partition("#")
        if alias and alias != _plain_name(alias):
            raise RefusedError(f"the name after # must be a plain file name: {uri}")
        if re.match(r"s3[an]?://", source):
            # The first `#` in a URI of spark-submit begins the alias, so a key with `#` cannot be given.
            target = work / (alias if alias and not unpack else _plain_name(source))
            s3.fetch(self.client, source, target)
        elif source.startswith("/"):
            target = Path(self.node.resolve(source))
            if not self.node.owns(target):
                raise RefusedError(
                    f"{source} is not on the node; give an s3:// URI or a path created by a bootstrap action"
                )
        else:
            raise RefusedError(f"only s3:// URIs and absolute paths of the node are run, not {uri}")
        if unpack:
            folder = work / (alias or target.name)
            archive = target
            if target == folder:  # no alias: the directory has the archive's name, as on YARN
                archive = target.rename(target.with_name(f".{target.name}"))
            _unpack(archive, folder)
            return f"{archive}#{folder.name}"
        return str(target)


def _plain_name(path: str) -> str:
    """The last part of a path or URI. Raises RefusedError if it leads out of its folder."""
    name = Path(path).name
    if name in ("", ".."):
        raise RefusedError(f"a file of a step needs a plain file name, not {path}")
    return name


def _unpack(archive: Path, folder: Path) -> None:
    try:
        if archive.name.endswith((".tgz", ".tar.gz", ".tar")):
            # Python has filters since 3.11.4. Without one a member could be written outside of the folder,
            # which the step of the archive may do anyway.
            guarded: Any = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
            shutil.unpack_archive(archive, folder, **guarded)
        else:
            shutil.unpack_archive(archive, folder, format="zip")
    except (shutil.ReadError, tarfile.TarError, OSError, ValueError) as error:
        raise RefusedError(f"cannot unpack {archive.name}: {error}") from error


def _spark_home() -> Path:
    spec = find_spec("pyspark")
    if spec is None or not spec.submodule_search_locations:
        raise RefusedError("pyspark is not installed beside the server; pip install pyspark==3.5.*")
    return Path(next(iter(spec.submodule_search_locations)))


def _private_spark_home(spark_home: Path, home: Path) -> Path:
    """A SPARK_HOME of links: executors of a local cluster write to SPARK_HOME, which may be read-only."""
    home.mkdir(exist_ok=True)
    for entry in spark_home.iterdir():
        if entry.name != "work" and not (home / entry.name).exists():
            (home / entry.name).symlink_to(entry)
    return home


def _property(value: str) -> str:
    """``value`` with the escapes of a Java properties file."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")
