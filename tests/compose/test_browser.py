"""Airflow's UI in a browser, as a user sees it: the form, the run that turns green, the report by its link.

`make screenshots` keeps what is seen in docs/images, else it goes to a temporary folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from stack import BUCKET, DAG_ID, RUN_SECONDS, UP_SECONDS, ComposeStack, DagRun

from support.waiting import answer_when

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Response

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no chromium here; apt-get install chromium"
)

PER_LABEL, COMPONENTS = 12, 40
# A page of a slow machine; what takes a whole run waits RUN_SECONDS.
PAGE_MS = 300_000
WIDE, HIGH, FORM_HIGH, REPORT_HIGH = 1280, 900, 1120, 2050
GRAPH = {"width": 900, "height": 1600}
LARGE = 400_000  # bytes of a screenshot; above that, 256 colours must do


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go."""
    wanted = os.environ.get("FRUITS_SCREENSHOTS")
    folder = Path(wanted) if wanted else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def page(browser: Browser, stack: ComposeStack) -> Iterator[Page]:
    """A page of the UI, logged in."""
    answer_when(lambda: stack.api.call("GET", f"/api/v2/dags/{DAG_ID}"), bool, UP_SECONDS, "the DAG is known")
    page = logged_in(browser, stack, stack.url)
    yield page
    page.context.close()


@pytest.fixture(scope="module")
def run(page: Page, stack: ComposeStack, pictures: Path) -> DagRun:
    """A run that the form triggered, with two values of its own."""
    form = opened_form(page, stack)
    page.set_viewport_size({"width": WIDE, "height": FORM_HIGH})
    fill(form, "Reduction", "Components", str(COMPONENTS))
    fill(form, "Data", "Images per label", str(PER_LABEL))
    take(page, pictures, "ui-form")
    page.set_viewport_size({"width": WIDE, "height": HIGH})
    answer = press_trigger(page, form)
    assert answer.status == 200, answer.text()
    asked = answer.json()["conf"]
    assert (asked["per_label"], asked["components"], asked["source"]) == (PER_LABEL, COMPONENTS, "/images")
    return DagRun(stack.api, answer.json()["dag_run_id"])


@pytest.fixture(scope="module")
def ended(page: Page, stack: ComposeStack, run: DagRun) -> DagRun:
    """The same, once its page, which is not loaded again, says that the last task has run."""
    page.goto(f"{stack.url}/dags/{DAG_ID}/runs/{run.id}")
    last = page.get_by_role("row").filter(has=page.get_by_role("link", name="notify_run_ended", exact=True))
    last.get_by_text("Success", exact=True).wait_for(timeout=RUN_SECONDS * 1000)
    return run


def logged_in(browser: Browser, stack: ComposeStack, url: str) -> Page:
    """The DAG's page after a log in with the password of .env."""
    context = browser.new_context(viewport={"width": WIDE, "height": HIGH}, color_scheme="light")
    context.set_default_timeout(PAGE_MS)
    page = context.new_page()
    page.goto(f"{url}/dags/{DAG_ID}")
    page.get_by_role("textbox", name="Username").fill(stack.user)
    page.get_by_role("textbox", name="Password").fill(stack.password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Trigger Dag").wait_for()
    return page


def opened_form(page: Page, stack: ComposeStack) -> Locator:
    page.goto(f"{stack.url}/dags/{DAG_ID}")
    page.get_by_role("button", name="Trigger Dag").click()
    form = page.get_by_role("dialog")
    form.get_by_role("heading", name=f"Trigger Dag - {DAG_ID}").wait_for()
    return form


def fill(form: Locator, section: str, field: str, value: str) -> None:
    """Write into a field of a section, of which one is open at a time."""
    form.get_by_role("button", name=section, exact=True).click()
    form.get_by_role("region", name=section).get_by_role("spinbutton", name=field).fill(value)


def press_trigger(page: Page, form: Locator) -> Response:
    """Airflow's answer to the form."""
    with page.expect_response(
        lambda answer: answer.url.endswith("/dagRuns") and answer.request.method == "POST"
    ) as answered:
        form.get_by_role("button", name="Trigger", exact=True).click()
    return answered.value


def opened_report(page: Page, url: str, run: DagRun) -> Page:
    """The tab that the link of the task opens."""
    page.goto(f"{url}/dags/{DAG_ID}/runs/{run.id}/tasks/make_report/details")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Report", exact=True).click()
    opened.value.wait_for_load_state()
    return opened.value


def take(page: Page, folder: Path, name: str) -> None:
    """Screenshots of what is seen in both themes."""
    for theme, suffix in (("dark", "-dark"), ("light", "")):
        page.emulate_media(color_scheme=theme)
        path = folder / f"{name}{suffix}.png"
        page.screenshot(path=path, animations="disabled")
        Image.open(path).convert("RGB").save(path, optimize=True)
        if path.stat().st_size > LARGE:
            Image.open(path).quantize(256).save(path, optimize=True)


def test_a_value_off_its_limits_is_refused_with_the_reason(page: Page, stack: ComposeStack) -> None:
    form = opened_form(page, stack)
    fill(form, "Reduction", "Variance to keep", "1.5")
    assert press_trigger(page, form).status == 400
    reason = "Invalid input for param variance: 1.5 is greater than or equal to the maximum of 1"
    form.get_by_text(reason).wait_for()


def test_a_number_above_its_limit_becomes_the_limit(page: Page, stack: ComposeStack) -> None:
    form = opened_form(page, stack)
    fill(form, "Reduction", "Components", "9999")
    field = form.get_by_role("spinbutton", name="Components")
    field.press("Tab")
    page.wait_for_function("field => field.value === '4096'", arg=field.element_handle())


def test_a_run_of_the_form_turns_the_grid_green(page: Page, ended: DagRun, pictures: Path) -> None:
    rows = page.get_by_role("row").filter(has=page.get_by_role("button", name="Clear Task Instance"))
    tasks = ended.tasks()
    for task in tasks:
        row = rows.filter(has=page.get_by_role("link", name=task, exact=True))
        assert "Success" in row.inner_text(), f"{task}: {ended.log(task)[-2000:]}"
    for task in ("preflight", "wait_for_extraction", "terminate_cluster", "notify_run_ended"):
        page.locator(f"a[href$='/runs/{ended.id}/tasks/{task}']").first.wait_for()
    # What belongs to the grid has room for it.
    edge = page.get_by_role("separator").bounding_box()
    assert edge is not None
    page.mouse.move(edge["x"] + edge["width"] / 2, edge["y"] + 40)
    page.mouse.down()
    page.mouse.move(edge["x"] + 60, edge["y"] + 40, steps=5)
    page.mouse.up()
    page.mouse.move(WIDE - 5, HIGH - 5)
    take(page, pictures, "ui-grid")


def test_the_graph_shows_the_tasks_of_the_run(
    page: Page, stack: ComposeStack, ended: DagRun, pictures: Path
) -> None:
    page.set_viewport_size(GRAPH)
    page.goto(f"{stack.url}/dags/{DAG_ID}/runs/{ended.id}")
    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Collapse Details Panel").click()
    page.get_by_role("button", name="Options").click()
    page.get_by_role("combobox", name="Graph Direction").click()
    page.get_by_role("option", name="Top to Bottom").click()
    page.keyboard.press("Escape")
    graph = page.get_by_role("application")
    for task in ended.tasks():
        if not task.startswith("stage."):  # the group's are shown when it is opened
            graph.get_by_role("link", name=task, exact=True).wait_for()
    page.get_by_role("button", name="Fit View").click()
    page.wait_for_timeout(2000)  # the view glides there; nothing tells when it has
    take(page, pictures, "ui-graph")
    page.set_viewport_size({"width": WIDE, "height": HIGH})


def test_the_report_opens_by_the_link_of_its_task(
    page: Page, stack: ComposeStack, ended: DagRun, pictures: Path
) -> None:
    report = opened_report(page, stack.url, ended)
    key, summary = ended.returned("preflight")["run_key"], ended.returned("summarise")
    place = f"{BUCKET}/runs/{key}/report.html"
    url = f"http://127.0.0.1:{stack.env['LOCAL_AWS_PORT']}/{place}"
    assert report.url == url
    report.get_by_role("heading", name=f"Report of run {key}").wait_for()
    figures = dict(text.split("\n", 1) for text in report.locator("dl.figures div").all_inner_texts())
    assert figures["images drawn"] == f"{summary['images']:,}"
    assert figures["features to components (k)"].endswith(f" → {COMPONENTS}")
    report.set_viewport_size({"width": WIDE, "height": REPORT_HIGH})
    report.get_by_role("button", name="zoom in: First two components").wait_for()
    take(report, pictures, "ui-report")
    report.close()
    # The log, which a task's page opens with, leads there as well.
    page.goto(f"{stack.url}/dags/{DAG_ID}/runs/{ended.id}/tasks/make_report")
    page.get_by_role("link", name=url).wait_for()


def test_the_link_works_from_localhost_too(browser: Browser, stack: ComposeStack, ended: DagRun) -> None:
    """To a browser that is another site than 127.0.0.1, and a server may refuse what comes from there."""
    url = stack.url.replace("127.0.0.1", "localhost")
    page = logged_in(browser, stack, url)
    assert page.url.startswith(url)
    report = opened_report(page, url, ended)
    report.get_by_role("heading", name="Report of run").wait_for()
    page.context.close()
