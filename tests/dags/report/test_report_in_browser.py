"""A run's report in a real browser: no request, no error, and maps that respond."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.report_page import HOSTILE, hostile_source, report_of
from support.runs import make_run


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, drawn_folder: Path, random_backbone: Path) -> str:
    """Of the report of a small run with a hostile label, as a file."""
    folder = tmp_path_factory.mktemp("browser")
    source = hostile_source(drawn_folder, folder / "source")
    _, _, html = report_of(make_run(folder / "run", source, random_backbone, 3))
    path = folder / "report.html"
    path.write_text(html)
    return path.as_uri()


@pytest.fixture(params=[(1280, "light"), (360, "dark")], ids=["desktop", "phone"])
def page(browser: Any, address: str, request: Any) -> Iterator[Any]:
    """The report, opened; whatever it complains of or asks for fails the test."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.set_default_timeout(120_000)
    page = context.new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda asked: trouble.append(asked.url) if _leaves(asked.url, address) else None)
    page.goto(address)
    yield page
    context.close()
    assert trouble == []


def _leaves(url: str, address: str) -> bool:
    return url != address and not url.startswith("data:")


def test_nothing_of_a_hostile_name_runs_and_nothing_overflows(page: Any) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") == page.evaluate("innerWidth")


def test_pointing_at_the_map_shows_the_image(page: Any) -> None:
    canvas = page.locator("[data-map] canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tip = page.locator("[data-map] .tip").first
    spots = [(x, y) for y in range(20, int(box["height"]), 12) for x in range(20, int(box["width"]), 12)]
    for x, y in spots:
        page.mouse.move(box["x"] + x, box["y"] + y)
        if tip.is_visible():
            break
    assert tip.is_visible()
    image = tip.locator(".pic").evaluate("element => getComputedStyle(element).backgroundImage")
    assert image.startswith('url("data:image/webp;base64,')
    assert tip.locator("b").inner_text() in ("Apricot", "Plum", HOSTILE)


def test_a_label_can_be_searched_and_its_images_are_listed(page: Any) -> None:
    page.fill("#find", "SCRIPT")
    page.wait_for_function("document.querySelectorAll('#strip figure').length === 3")
    assert page.locator("#count").inner_text() == "1 of 3 labels, 3 images"
    assert page.locator("#labels button:visible").count() == 1
    page.click("#clear")
    page.wait_for_function("document.querySelectorAll('#strip figure').length === 0")
    assert page.locator("#labels button:visible").count() == 3


def test_the_map_zooms_by_buttons_and_keys(page: Any) -> None:
    picture = "() => document.querySelector('[data-map] canvas').toDataURL()"
    before = page.evaluate(picture)
    page.get_by_role("button", name="zoom in: First two components").click()
    near = page.evaluate(picture)
    assert near != before
    page.locator("[data-map] canvas").first.press("0")
    assert page.evaluate(picture) == before
