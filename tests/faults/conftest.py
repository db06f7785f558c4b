"""The testbed that faults are injected on, and the table of what came of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promises
import pytest
import table
from testbed import PARAMS, Testbed
from trial import Trial

from support.faulty_aws import FaultyAws
from support.mailbox import Mailbox

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All here are `faults`; what is marked `quick` runs with the end-to-end tests too."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)
            # Two whole runs, on a machine that may be busy; the first test waits for the testbed as well.
            item.add_marker(pytest.mark.timeout(3000))
            if item.get_closest_marker("quick"):
                item.add_marker(pytest.mark.e2e)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-page", metavar="FILE", help="write the table of faults into this page")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = [
        value if outcome == "passed" else {**value, "outcome": table.BROKEN}
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", [])
        if name == "fault" and report.when == "call"
    ]
    if not rows:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(table.text(rows))
    page = config.getoption("--faults-page")
    if page:
        table.write(Path(page), rows)


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    with FaultyAws() as proxy:
        made = Testbed(tmp_path_factory.mktemp("testbed"), proxy)
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="session")
def mailbox(testbed: Testbed) -> Mailbox:
    return testbed.new_mailbox()


@pytest.fixture(scope="session")
def undisturbed(testbed: Testbed) -> promises.Output:
    """What a run makes of the testbed's images when nothing is done to it."""
    run = testbed.stage.run("undisturbed", source=str(testbed.source), **PARAMS)
    assert run.ok, run.log[-6000:]
    return promises.output_of(run.storage)


@pytest.fixture
def trial(
    request: pytest.FixtureRequest, testbed: Testbed, mailbox: Mailbox, undisturbed: promises.Output
) -> Iterator[Trial]:
    mark = request.node.get_closest_marker("fault")
    assert mark, "a trial needs @pytest.mark.fault(<what is done to the run>)"
    spec = getattr(request.node, "callspec", None)  # of a parametrised test
    row: dict[str, Any] = {
        "kind": request.path.stem.split("_")[1],  # test_<kind>.py, test_<kind>_<part>.py
        "fault": mark.args[0].format(**(spec.params if spec else {})),
        "outcome": table.BROKEN,
    }
    request.node.user_properties.append(("fault", row))
    run_key = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")[:80]
    testbed.proxy.clear()
    mailbox.read()
    yield Trial(testbed, mailbox, undisturbed, run_key, row)
    testbed.proxy.clear()
    for cluster in testbed.stage.clusters(*promises.ALIVE):  # of a promise that was broken
        testbed.stage.aws.client("emr").terminate_job_flows(JobFlowIds=[cluster["Id"]])
