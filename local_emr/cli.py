"""The command line: its options, their checks before anything starts, signals, exit codes."""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from local_emr.node.java import NoJavaError, find_java_home
from local_emr.server import address
from local_emr.settings import MASTER, Settings
from local_emr.state import snapshot

BAD_OPTION = 2

EPILOG = """\
examples:
  python -m local_emr                                # in memory, http://127.0.0.1:5000
  python -m local_emr --directory .local-aws         # objects, ended clusters and roles survive a restart
  python -m local_emr --port 0                       # a free port, which the ready line names
  python -m local_emr --master 'local-cluster[2,1,1024]'   # executors in separate processes
  AWS_ENDPOINT_URL=http://127.0.0.1:5000 aws emr list-clusters

exit codes:
  0  stopped by SIGTERM or SIGINT, state saved
  1  the state could not be saved
  2  an option, the directory, the port or the machine is not usable; stderr says why
"""


class BadOptionError(Exception):
    """An option, or what it names, cannot be used; the message is one line for the user."""


class OptionParser(argparse.ArgumentParser):
    """A parser whose errors are BadOptionError; an unknown option is reported with the nearest known one."""

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        args, unknown = self.parse_known_args(argv)
        for word in unknown:
            nearest = difflib.get_close_matches(word.partition("=")[0], self._option_string_actions, n=1)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"see {self.prog} --help"
            raise BadOptionError(f"no option {word!r}; {advice}")
        return args

    def error(self, message: str) -> NoReturn:
        raise BadOptionError(message)


def make_parser() -> OptionParser:
    cores = os.cpu_count() or 1
    parser = OptionParser(
        prog="python -m local_emr",
        description="An AWS on one machine: moto's services, and an EMR that really runs its steps.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="port, 0 for a free one (default %(default)s)")
    parser.add_argument(
        "--directory", type=Path, help="folder of the state; without it all state is in memory"
    )
    parser.add_argument(
        "--s3-endpoint", default="", metavar="URL", help="another S3 server for steps and logs"
    )
    # A task may fail four times, as on a cluster; with local[N] one lost worker would fail the job.
    parser.add_argument("--master", default=f"local[{cores},4]", help="Spark master (default %(default)s)")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="python3 and python3.11 of a node (default: %(default)s, which runs this server)",
    )
    parser.add_argument(
        "--log-seconds",
        type=float,
        default=5.0,
        help="seconds between two uploads of a running step's logs (default %(default)s)",
    )
    parser.add_argument(
        "--java-options",
        default="",
        metavar="OPTIONS",
        help="for Spark drivers whose step sets none; -XX:TieredStopAtLevel=1 halves the start of a short "
        "step, and slows down a long one that computes in Java",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name to accept in the Host header",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    try:
        return _serve(make_parser().parse(argv))
    except BadOptionError as error:
        print(f"local_emr: {error}", file=sys.stderr)
        return BAD_OPTION


def _serve(args: argparse.Namespace) -> int:
    node_settings, directory = _checked(args)
    try:
        listener = address.listen(args.host, args.port)
    except (OSError, OverflowError) as error:
        raise BadOptionError(f"cannot listen on {args.host}:{args.port}: {error}") from error
    endpoint = address.endpoint_of(listener)
    s3_endpoint = args.s3_endpoint.rstrip("/") or endpoint
    if args.s3_endpoint and not address.reachable(s3_endpoint):
        raise BadOptionError(f"nothing answers at --s3-endpoint {args.s3_endpoint}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from local_emr.node.runner import NodeRunner
    from local_emr.server import app  # moto takes a second to import: after all checks

    app.quiet_logs()
    with _root(directory) as root:
        settings = Settings(**node_settings, endpoint=endpoint, s3_endpoint=s3_endpoint, root=root)
        try:
            with app.LocalAws(
                partial(NodeRunner, settings),
                listener=listener,
                directory=directory,
                allowed_hosts=[args.host, *args.allow_host],
            ):
                warn_when_open(args.host)
                print(f"local AWS ready at {endpoint}", flush=True)
                stop.wait()
        except snapshot.StateError as error:
            raise BadOptionError(str(error)) from error
        except snapshot.SaveError as error:
            print(f"local_emr: {error}", file=sys.stderr)
            return 1
    return 0


@contextmanager
def _root(directory: Path | None) -> Iterator[Path]:
    """The folder for the files of clusters: ``directory``, or a temporary one that is removed at the end."""
    if directory:
        yield directory
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="local-emr-", ignore_cleanup_errors=True)
    except OSError as error:
        raise BadOptionError(str(error)) from error
    with temporary as name:
        yield Path(name).resolve()


def _checked(args: argparse.Namespace) -> tuple[dict[str, Any], Path | None]:
    """The fields of Settings that options give, and the directory. Raises BadOptionError."""
    if not MASTER.fullmatch(args.master):
        raise BadOptionError(
            "--master must be local, local[N], local[N,failures] or local-cluster[N,cores,MB], "
            f"not {args.master}"
        )
    python = shutil.which(Path(args.python).expanduser())
    if not python:
        raise BadOptionError(f"--python {args.python} is not an executable program")
    if args.s3_endpoint and (urlsplit(args.s3_endpoint).scheme not in ("http", "https")):
        raise BadOptionError(f"--s3-endpoint must be an http(s) URL, not {args.s3_endpoint}")
    if args.log_seconds <= 0:
        raise BadOptionError(f"--log-seconds must be above 0, not {args.log_seconds}")
    try:
        java = find_java_home()
    except NoJavaError as error:
        raise BadOptionError(str(error)) from error
    directory = args.directory.expanduser().resolve() if args.directory else None
    if directory:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadOptionError(f"--directory {directory} cannot be created: {error.strerror}") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise BadOptionError(f"--directory {directory} is not writable")
    node_settings = {
        "master": args.master,
        "python": str(Path(python).absolute()),  # not resolved: a venv's python is a link
        "java_home": java,
        "log_seconds": args.log_seconds,
        "java_options": args.java_options,
    }
    return node_settings, directory


def warn_when_open(host: str) -> None:
    """Writes a warning to stderr when ``host`` is not an address of loopback."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        text = f"{host} is not loopback; anyone who reaches this port can run commands on this machine"
        print(f"local_emr: warning: {text}", file=sys.stderr, flush=True)
