"""The page itself: what was gathered, as the template and its script want it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from fruit_pipeline import pages
from fruit_pipeline.notify.texts import Words
from fruit_pipeline.report import charts, maps, rejected, rows, views
from fruit_pipeline.report.maps import Plane
from fruit_pipeline.report.pictures import Spot, Sprites
from fruit_pipeline.report.quality import NEIGHBOURS, Quality
from fruit_pipeline.report.rejected import Reject
from fruit_pipeline.report.rows import Rows
from fruit_pipeline.report.views import Asked, Pair
from image_features.contract import FeaturesMarker, PcaMarker, RunLayout, RunSummary, SampleMarker
from image_features.pca import PcaModel

_NAME = 160  # characters of a name that are shown

# Not Params of another run: its own key, and the tag of its DAG run.
_OF_THE_RUN = ("run_key", "dag_run")


@dataclass(frozen=True)
class Run:
    """A finished run: its markers, its PCA, and its summary where the DAG has written one."""

    layout: RunLayout
    features: FeaturesMarker
    pca: PcaMarker
    model: PcaModel
    sample: SampleMarker | None  # None: it was deleted, as a clean-up does
    summary: RunSummary | None  # None: the stages were run by hand

    @property
    def key(self) -> str:
        return self.summary.run_key if self.summary else self.layout.root.rpartition("/")[2]

    @property
    def seed(self) -> int:
        return self.sample.seed if self.sample else 0

    @property
    def weights_are_random(self) -> bool:
        return self.features.weights.startswith("random:")


@dataclass(frozen=True)
class Shown:
    """What the page shows beside the run's own figures."""

    drawn: Rows
    measured: Quality
    points: list[int]  # rows on the maps
    components_map: Plane
    neighbours_map: Plane | None
    gallery: list[Asked]
    pairs: list[Pair]
    rejects: list[Reject]
    small: Sprites
    large: Sprites
    missing: list[str]


class _Pictures:
    """Pictures by name, as the classes of a span, and the rules of these classes."""

    def __init__(self, small: Sprites, large: Sprites) -> None:
        self._large = large
        self._used: dict[str, int] = {}
        self._sheets = [(f"s{n}", sheet) for n, sheet in enumerate(small.sheets)]
        self._sheets += [(f"l{n}", sheet) for n, sheet in enumerate(large.sheets)]

    def __call__(self, name: str) -> str | None:
        """Classes of a large picture, None when there is none."""
        spot = self._large.spots.get(name)
        if spot is None:
            return None
        return f"l{spot.sheet} p{self._used.setdefault(name, len(self._used))}"

    def rules(self) -> str:
        """CSS of the sheets, and of the pictures that have been asked for."""
        lines = [
            f".{name}{{background-image:url({sheet.uri});background-size:{sheet.width}% {sheet.height}%}}"
            for name, sheet in self._sheets
        ]
        for name, number in self._used.items():
            spot = self._large.spots[name]
            lines.append(f".p{number}{{background-position:{spot.x}% {spot.y}%}}")
        return "\n".join(lines)


def render(run: Run, shown: Shown) -> str:
    """The page as HTML."""
    picture = _Pictures(shown.small, shown.large)
    versions = run.summary.versions if run.summary else {}
    places = asdict(run.summary.places) if run.summary else {}
    values: dict[str, Any] = {
        "language": "en",
        "title": f"Report of run {run.key}",
        "words": Words("en"),
        "run": run,
        "shown": shown,
        "measured": shown.measured,
        "labels": _labels(run, shown),
        "cost": run.summary.cost if run.summary else None,
        "actual": run.summary.cost.actual if run.summary else None,
        "seconds": _seconds(run),
        "scree": _variance_charts(run),
        "accuracy": _accuracy_chart(shown.measured),
        "matrix": views.matrix(shown.drawn, shown.measured.neighbours),
        "label_scores": views.label_scores(shown.drawn, shown.measured.neighbours),
        "most_labels": views.LABELS,
        "neighbours": NEIGHBOURS,
        "per_reason": rejected.PER_REASON,
        "meaning": rejected.meaning,
        "read_bytes": rows.READ_BYTES,
        "perplexity": maps.perplexity(len(shown.points)),
        "data": _data(shown),
        "params": _params(run.summary) if run.summary else "",
        "digests": _digests(run),
        "versions": {**versions, "scikit-learn": version("scikit-learn")},
        "places": {**places, "report": run.layout.report},
        "cut": cut,
        "picture": picture,
    }
    # Two passes: only the first one knows which pictures are used, which the style must name.
    pages.render("report.html", **values)
    style = f"{pages.asset('report.css')}\n{picture.rules()}"
    return pages.render("report.html", style=style, script=pages.asset("report.js"), **values)


def cut(name: str, limit: int = _NAME) -> str:
    """A long name without its middle."""
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[-limit // 2 + 1 :]}"


def _labels(run: Run, shown: Shown) -> int | None:
    """Labels of the run; None when only those of the drawn rows are known."""
    if run.sample:
        return len(run.sample.labels)
    return run.summary.labels if run.summary else None


def _seconds(run: Run) -> dict[str, float]:
    if run.summary:
        return run.summary.seconds
    return {"extract features": run.features.seconds, "reduce with PCA": run.pca.seconds}


def _variance_charts(run: Run) -> list[charts.Chart]:
    ratio = run.model.explained_variance_ratio.tolist()
    kind, _, value = run.pca.request.partition("=")
    asked = float(value) if kind == "variance" else None
    return [charts.variance_by_component(ratio), charts.cumulative_variance(ratio, asked)]


def _accuracy_chart(measured: Quality) -> charts.Chart | None:
    if not measured.by_components:
        return None
    return charts.accuracy_by_components(measured.by_components, measured.full.first, measured.full.width)


def _params(summary: RunSummary) -> str:
    params = {name: value for name, value in summary.request.items() if name not in _OF_THE_RUN}
    return json.dumps(params, indent=1, ensure_ascii=False)


def _digests(run: Run) -> dict[str, str]:
    known = {
        "sample": run.sample.request_digest if run.sample else None,
        "model": run.features.model_digest,
        "features": run.features.digest,
        "pca": run.model.digest,
        "embedder": run.pca.embedder_digest,
    }
    digests = [*known.items(), *(run.summary.digests.items() if run.summary else ())]
    return {name: value for name, value in digests if value}


def _data(shown: Shown) -> dict[str, Any]:
    """What the map's script reads: columns, one entry an image."""
    drawn = shown.drawn
    names = sorted({drawn.labels[row] for row in shown.points})
    number = {label: at for at, label in enumerate(names)}
    nearest = shown.measured.neighbours
    found = dict(zip(nearest.asked.tolist(), nearest.found[:, :1].ravel().tolist(), strict=True))
    planes = [shown.components_map, shown.neighbours_map]
    return {
        "labels": [cut(label) for label in names],
        "images": [cut(drawn.images[row]) for row in shown.points],
        "label": [number[drawn.labels[row]] for row in shown.points],
        "nearest": [cut(drawn.labels[found[row]]) if row in found else None for row in shown.points],
        "right": [
            drawn.labels[found[row]] == drawn.labels[row] if row in found else None for row in shown.points
        ],
        "maps": [maps.scaled(plane) for plane in planes if plane],
        "pictures": [_place(shown.small.spots.get(drawn.images[row])) for row in shown.points],
    }


def _place(spot: Spot | None) -> Sequence[float] | None:
    return None if spot is None else (spot.sheet, spot.x, spot.y)
