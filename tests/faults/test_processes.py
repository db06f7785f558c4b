"""Processes that are killed, stopped or starved in the middle of a run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from clusters import once_clusters_ended, shorten_idle_timeout
from testbed import PARAMS, Testbed
from trial import Ended, Trial
from victims import Freeze, Hit, Pick, Starve, above, caller, driver, itself

from fruit_pipeline.aws.lock import LOCK
from support.fault_kinds import Meanwhile
from support.faulty_aws import Call, FaultyAws

KILLED = r"step s-\w+ \(extract features\) is FAILED: its process was killed \(SIGKILL\)"


@pytest.mark.quick
@pytest.mark.fault("a Python worker is killed in mid-batch")
def test_worker_killed(trial: Trial) -> None:
    trial.add(Hit("PUT", path=f"{trial.prefix}/features/shard-00002"))
    trial.goes_through()


@pytest.mark.quick
@pytest.mark.fault("the Spark driver's JVM is killed")
def test_driver_killed(trial: Trial) -> None:
    trial.add(Hit("PUT", path=f"{trial.prefix}/features/shard-00005", pick=above("SparkSubmit")))
    trial.fails(KILLED)
    assert trial.row["recomputed"] == 0, "a shard that stood was computed again"


@pytest.mark.fault("the Spark driver's Python process is killed")
def test_python_driver_killed(trial: Trial) -> None:
    trial.add(Hit("PUT", path=f"{trial.prefix}/features/shard-00005", pick=driver))
    trial.fails(KILLED)


@pytest.mark.fault("the Python driver is killed after it has written features/_SUCCESS, before it knows")
def test_driver_killed_at_its_marker(trial: Trial) -> None:
    trial.add(Hit("PUT", path=f"{trial.prefix}/features/_SUCCESS", done=True))
    trial.fails(KILLED)


@pytest.mark.fault("the whole process group of the step is killed")
def test_step_group_killed(trial: Trial) -> None:
    path = f"{trial.prefix}/features/shard-00005"
    trial.add(Hit("PUT", path=path, pick=above("SparkSubmit"), group=True))
    trial.fails(KILLED)


@pytest.mark.parametrize(
    ("who", "pick"),
    [("Python worker", itself), ("Spark driver's JVM", above("SparkSubmit"))],
    ids=["worker", "jvm"],
)
@pytest.mark.fault("the {who} is stopped for a minute (SIGSTOP)")
def test_stopped_for_a_minute(trial: Trial, who: str, pick: Pick) -> None:
    trial.add(Freeze("PUT", path=f"{trial.prefix}/features/shard-00003", seconds=60, pick=pick))
    trial.goes_through()


@pytest.mark.fault("a Python worker gets no more memory; the next one does")
def test_worker_starved_once(trial: Trial) -> None:
    trial.add(Starve("PUT", path=f"{trial.prefix}/features/shard-0000"))
    trial.goes_through()


@pytest.mark.fault("no Python worker gets memory for its first shard")
def test_workers_starved(trial: Trial) -> None:
    trial.add(Starve("GET", path=f"{trial.prefix}/sample/shard-", below="pyspark.daemon", times=None))
    trial.fails(r"out of memory.*|a worker was lost .*out of memory most likely.*shape with more memory")


@pytest.mark.parametrize("size", ["16k", "1m"])
@pytest.mark.fault("the node's temporary folder has room for {size}")
def test_disk_full(trial: Trial, size: str) -> None:
    with small_disks(trial.testbed, size) as mount:
        trial.add(Meanwhile(mount, "GET", path=f"{trial.prefix}/code/extract_features.py"))
        trial.fails(r"the node's disk is full.*ebs_gb")


@contextmanager
def small_disks(testbed: Testbed, size: str) -> Iterator[object]:
    """A function that puts a small file system where the youngest step keeps its temporary files."""
    mounted: list[Path] = []

    def mount(call: Call) -> None:
        steps = testbed.aws_directory.glob("clusters/*/node/mnt/var/lib/hadoop/steps/*")
        folder = max(steps, key=lambda path: path.stat().st_ctime_ns) / "tmp"
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
        mounted.append(folder)

    probe = testbed.work / "disk"
    probe.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", probe], check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    subprocess.run(["umount", probe], check=True)
    try:
        yield mount
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", folder], check=False)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.fault("`airflow dags test` is killed in mid-extraction (a laptop is closed)")
def test_airflow_killed(trial: Trial, tmp_path: Path) -> None:
    """The next run of the key is refused while the cluster lives; it ends itself, then one goes through."""
    shorten_idle_timeout(trial, tmp_path)
    start, params = trial.stage.start, {"source": str(trial.testbed.source), **PARAMS}

    def killed_and_again() -> Ended:
        process, workers = start(trial.run_key, **params), list[psutil.Process]()

        def kill(call: Call) -> None:
            process.kill()
            # The step is held up until the next run has seen its cluster.
            workers.append(caller(call))
            workers[0].suspend()

        trial.add(Meanwhile(kill, "PUT", path=f"{trial.prefix}/features/shard-00004"))
        process.wait()
        ended = trial.run()
        workers[0].resume()
        return once_clusters_ended(trial, ended)

    refusal = r"cluster j-\w+ of run [\w-]+ is alive, made by DAG run \S+ wait until it has ended"
    trial.fails(refusal, killed_and_again)


@pytest.fixture(scope="module")
def wide_testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Executors in processes of their own, two of one core."""
    with FaultyAws() as proxy:
        made = Testbed(tmp_path_factory.mktemp("wide"), proxy, ["--master", "local-cluster[2,1,1024]"])
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.mark.fault("one of two executors is killed")
def test_executor_killed(trial: Trial, wide_testbed: Testbed) -> None:
    trial.testbed, trial.mailbox = wide_testbed, wide_testbed.new_mailbox()
    executor = above("CoarseGrainedExecutorBackend")
    trial.add(Hit("PUT", path=f"{trial.prefix}/features/shard-00004", pick=executor))
    trial.goes_through()


@pytest.mark.fault("the local AWS is killed in mid-run and starts again")
def test_local_aws_killed(trial: Trial) -> None:
    """What came after its last snapshot is lost, and topics are: they are made again."""

    def restart(call: Call) -> None:
        trial.testbed.restart_aws()
        trial.mailbox = trial.testbed.new_mailbox()

    trial.add(Meanwhile(restart, "PUT", path=f"{trial.prefix}/features/shard-00003"))
    # The snapshot may have the lock of its moment: a run that meets it says to delete it.
    cause = r"cluster j-\w+.* (?:went away|is not valid|does not exist).*"
    trial.fails(cause, again=lambda: trial.storage.delete([LOCK]))
