"""Renders the report's page: the values that the template and its script need."""

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
from fruit_pipeline.report.pictures import SpritePosition, Sprites
from fruit_pipeline.report.quality import NEIGHBOURS, Quality
from fruit_pipeline.report.rejected import Reject
from fruit_pipeline.report.rows import Rows
from fruit_pipeline.report.views import Confusion, GalleryRow
from fruit_pipeline.sample import left_out
from image_features.contract import (
    Conversion,
    FeaturesMarker,
    LeftOut,
    PcaMarker,
    RunLayout,
    RunSummary,
    SampleMarker,
)
from image_features.images import settings_of
from image_features.pca import PcaModel

_NAME = 160  # characters of a name that are shown

_CONVERSIONS = {
    Conversion.TRANSPARENT: "composited on white",
    Conversion.FROM_16_BIT: "reduced by the range that the file declares",
    Conversion.ASSUMED_12_BIT: "the file declares 16 bits, but no value is above 4,095: taken as 12 bits",
}

# Not Params that another run can take: the run's own key, and the tag of its DAG run.
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
    def left_out(self) -> list[LeftOut]:
        """Counts of the files of the source that are not in the sample."""
        known = self.sample or self.summary
        return known.left_out if known else []

    @property
    def labels_without_images(self) -> list[str]:
        known = self.sample or self.summary
        return known.labels_without_images if known else []

    @property
    def labels_alike(self) -> list[list[str]]:
        known = self.sample or self.summary
        return known.labels_alike if known else []

    @property
    def weights_are_random(self) -> bool:
        return self.features.weights.startswith("random:")


@dataclass(frozen=True)
class PageContent:
    """What the page shows, beside the figures of the run itself."""

    drawn: Rows
    measured: Quality
    points: list[int]  # rows on the maps
    components_map: Plane
    neighbours_map: Plane | None
    gallery: list[GalleryRow]
    confusions: list[Confusion]
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
        position = self._large.positions.get(name)
        if position is None:
            return None
        return f"l{position.sheet} p{self._used.setdefault(name, len(self._used))}"

    def rules(self) -> str:
        """CSS of the sheets, and of the pictures that were used."""
        lines = [
            f".{name}{{background-image:url({sheet.uri});background-size:{sheet.width}% {sheet.height}%}}"
            for name, sheet in self._sheets
        ]
        for name, number in self._used.items():
            position = self._large.positions[name]
            lines.append(f".p{number}{{background-position:{position.x}% {position.y}%}}")
        return "\n".join(lines)


def render(run: Run, content: PageContent) -> str:
    """The page as HTML."""
    picture = _Pictures(content.small, content.large)
    versions = run.summary.versions if run.summary else {}
    places = asdict(run.summary.places) if run.summary else {}
    values: dict[str, Any] = {
        "language": "en",
        "title": f"Report of run {run.key}",
        "words": Words("en"),
        "run": run,
        "content": content,
        "measured": content.measured,
        "labels": _labels(run, content),
        "cost": run.summary.cost if run.summary else None,
        "actual": run.summary.cost.actual if run.summary else None,
        "seconds": _seconds(run),
        "scree": _variance_charts(run),
        "accuracy": _accuracy_chart(content.measured),
        "matrix": views.matrix(content.drawn, content.measured.neighbours),
        "label_scores": views.label_scores(content.drawn, content.measured.neighbours),
        "most_labels": views.LABELS,
        "neighbours": NEIGHBOURS,
        "per_reason": rejected.PER_REASON,
        "meaning": rejected.meaning,
        "left_out": left_out.by_reason(run.left_out),
        "left_out_meaning": left_out.meaning,
        "label_names": left_out.names,
        "conversion_meaning": conversion_meaning,
        "input_size": settings_of(run.features.preprocessing)[0],
        "read_bytes": rows.READ_BYTES,
        "perplexity": maps.perplexity(len(content.points)),
        "data": _data(content),
        "params": _params(run.summary) if run.summary else "",
        "digests": _digests(run),
        "versions": {**versions, "scikit-learn": version("scikit-learn")},
        "places": {**places, "report": run.layout.report},
        "cut": cut,
        "picture": picture,
    }
    # Rendered twice: the style must name the pictures that are used, which are known after the first time.
    pages.render("report.html", **values)
    style = f"{pages.asset('report.css')}\n{picture.rules()}"
    return pages.render("report.html", style=style, script=pages.asset("report.js"), **values)


def conversion_meaning(kind: str) -> str:
    """A few words about a conversion; "" for one of another release."""
    return _CONVERSIONS.get(Conversion(kind), "") if kind in set(Conversion) else ""


def cut(name: str, limit: int = _NAME) -> str:
    """A long name, shortened in its middle."""
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[-limit // 2 + 1 :]}"


def _labels(run: Run, content: PageContent) -> int | None:
    """Number of labels of the run; None when only the labels of the drawn rows are known."""
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
    requested = float(value) if kind == "variance" else None
    return [charts.variance_by_component(ratio), charts.cumulative_variance(ratio, requested)]


def _accuracy_chart(measured: Quality) -> charts.Chart | None:
    if not measured.by_components:
        return None
    return charts.accuracy_by_components(
        measured.by_components, measured.full.first_right, measured.full.width
    )


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


def _data(content: PageContent) -> dict[str, Any]:
    """The data of the map's script: columns, with one entry for each image."""
    drawn = content.drawn
    names = sorted({drawn.labels[row] for row in content.points})
    number = {label: at for at, label in enumerate(names)}
    nearest = content.measured.neighbours.first
    planes = [content.components_map, content.neighbours_map]
    return {
        "labels": [cut(label) for label in names],
        "images": [cut(drawn.images[row]) for row in content.points],
        "label": [number[drawn.labels[row]] for row in content.points],
        "nearest": [cut(drawn.labels[nearest[row]]) if row in nearest else None for row in content.points],
        "right": [
            drawn.labels[nearest[row]] == drawn.labels[row] if row in nearest else None
            for row in content.points
        ],
        "maps": [maps.scaled(plane) for plane in planes if plane],
        "pictures": [_place(content.small.positions.get(drawn.images[row])) for row in content.points],
    }


def _place(position: SpritePosition | None) -> Sequence[float] | None:
    return None if position is None else (position.sheet, position.x, position.y)
