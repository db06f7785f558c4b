"""What one run is asked to do: the DAG's Params, checked at the border, and the form that offers them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fruit_pipeline.backbone import BACKBONES, DEFAULT_INPUT_SIZE, INPUT_SIZES, BackboneRequest
from fruit_pipeline.precision import DEFAULT_MIN_COSINE, MIN_IMAGES, PRECISIONS
from fruit_pipeline.sample import SampleRequest
from image_features.contract import RunLayout
from image_features.errors import JobError
from image_features.images import DEFAULT_MAX_PIXELS

DEFAULT_MAX_COST_USD = 5.0

DEFAULT_MAX_REJECT_RATE = 0.5
"""Above half it is not a folder with some bad files but the wrong folder, or one that was copied badly; below
it the report lists what was rejected. Who knows a source asks for less: docs/hostile-inputs.md."""

NOTIFY = {
    "always": "always: the cluster is ready, the run has finished or failed",
    "failures": "failures: only that the run failed",
    "never": "never",
}
"""When a run tells its topic, and how the trigger form words it."""

_RUN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class RunRequest:
    """A run, as asked for. Every field is a Param of the DAG but ``dag_run``; ``run_key`` has a default."""

    source: str
    per_label: int | None
    total: int | None
    labels: tuple[str, ...]
    seed: int
    pack: bool
    reuse: str | None  # URI of an earlier run
    max_pixels: int
    max_reject_rate: float
    backbone: str
    alpha: float
    weights: str
    input_size: int
    precision: str
    min_cosine: float
    components: int | None
    variance: float | None
    shape: str
    bucket: str
    regions: tuple[str, ...]  # the run's own list of allowed regions; empty: the deployment's
    max_cost_usd: float
    notify: str
    run_key: str
    dag_run: str  # the DAG run's id as a tag may hold it

    @property
    def layout(self) -> RunLayout:
        return RunLayout(f"s3://{self.bucket}/runs/{self.run_key}")

    @property
    def model(self) -> BackboneRequest:
        return BackboneRequest(self.backbone, self.alpha, self.weights, self.input_size)

    def sample(self, cores: int) -> SampleRequest:
        """What is drawn, for a cluster of so many cores. Raises JobError when it cannot be."""
        return SampleRequest(
            self.source, self.per_label, self.total, self.labels, self.seed, cores, pack=self.pack
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as XCom keeps them."""
        return {**asdict(self), "labels": list(self.labels), "regions": list(self.regions)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> RunRequest:
        lists = {name: tuple(values[name]) for name in ("labels", "regions")}
        return RunRequest(**{**values, **lists})


def from_params(params: Mapping[str, Any], run_id: str, default_bucket: str | None) -> RunRequest:
    """Turn the DAG's Params into a RunRequest. Raises JobError that names the Param at fault."""
    bucket = str(params["bucket"] or default_bucket or "")
    if not bucket:
        raise JobError("no bucket: set the Param 'bucket', or FRUITS_BUCKET for the deployment")
    if not _BUCKET.fullmatch(bucket):
        raise JobError(f"bucket {bucket!r} is no S3 bucket name; give the name alone, without s3://")
    source = str(params["source"] or "").strip()
    if not source:
        raise JobError(
            "no source: set the Param 'source' to a folder or an s3:// prefix of <label>/<image>, or "
            "FRUITS_SOURCE for the deployment"
        )
    run_key = str(params["run_key"] or "") or key_of(run_id)
    if not _RUN_KEY.fullmatch(run_key):
        raise JobError(f"run_key {run_key!r}: letters, digits, '.', '_' and '-' only, 100 at most")
    reuse = str(params["reuse"] or "").strip().rstrip("/") or None
    if reuse and not reuse.startswith("s3://"):
        if not _RUN_KEY.fullmatch(reuse):
            raise JobError(f"reuse {reuse!r}: give an earlier run's key, or its s3:// URI")
        reuse = RunLayout(f"s3://{bucket}/runs/{reuse}").root
    variance = params["variance"]
    return RunRequest(
        source=source,
        per_label=params["per_label"],
        total=params["total"],
        labels=tuple(params["labels"] or ()),
        seed=params["seed"],
        pack=params["pack"],
        reuse=reuse,
        max_pixels=params["max_pixels"],
        max_reject_rate=float(params["max_reject_rate"]),
        backbone=params["backbone"],
        alpha=float(params["alpha"]),
        weights=params["weights"],
        input_size=params["input_size"],
        precision=params["precision"],
        min_cosine=float(params["min_cosine"]),
        components=None if variance is not None else params["components"],
        variance=variance,
        shape=params["shape"],
        bucket=bucket,
        regions=tuple(params["regions"] or ()),
        max_cost_usd=float(params["max_cost_usd"]),
        notify=params["notify"],
        run_key=run_key,
        dag_run=key_of(run_id),
    )


def key_of(run_id: str) -> str:
    """A run id as one path segment; a few digits of its digest keep two ids apart."""
    key = re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).strip("-._")[:80] or "run"
    return key if key == run_id else f"{key}-{hashlib.sha256(run_id.encode()).hexdigest()[:6]}"


def form(shapes: Mapping[str, str], source: str = "", weights: str = "imagenet") -> dict[str, Any]:
    """The Params of the trigger form; ``shapes``: name to description, the others: what is offered.

    The form shows ``description`` as plain text, and ``description_md`` with its markup; what is marked as
    code there covers the lines above and below.
    """
    from airflow.sdk import Param

    return {
        "source": Param(
            source,
            type="string",
            title="Source",
            section="Data",
            description="Folder (as the Airflow worker sees it) or s3:// prefix of <label>/<image>.",
        ),
        "per_label": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Images per label",
            section="Data",
            description="Draw this many of each label. Empty, with no total: all images.",
        ),
        "total": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Images in total",
            section="Data",
            description="Draw this many in all, labels in proportion. Give this or images per label.",
        ),
        "labels": Param(
            [],
            type=["null", "array"],  # what may be empty is not marked as required
            items={"type": "string"},
            title="Labels",
            section="Data",
            description="Only these labels, one a line. Empty: all.",
        ),
        "seed": Param(
            0,
            type="integer",
            title="Seed",
            section="Data",
            description="The same seed draws the same sample on any machine.",
        ),
        "pack": Param(
            True,
            type="boolean",
            title="Copy the images",
            section="Data",
            description="Pack them into the run, about 1,000 an object. Off, for an s3:// source: nothing is "
            "copied, the nodes read the images from where they lie.",
        ),
        "run_key": Param(
            None,
            type=["null", "string"],
            pattern=f"^{_RUN_KEY.pattern}$",  # JSON Schema searches where fullmatch matches
            title="Resume run",
            section="Data",
            description="Key of an earlier run to complete: finished shards are not computed again. "
            "Empty: a new run, named after its run id.",
        ),
        "reuse": Param(
            None,
            type=["null", "string"],
            title="Earlier run to reuse",
            section="Data",
            description="Key of a run in the same bucket, or its s3:// URI: its features of images with the "
            "same bytes are taken over, and only the others are computed.",
        ),
        "max_pixels": Param(
            DEFAULT_MAX_PIXELS,
            type="integer",
            minimum=1,
            maximum=500_000_000,
            title="Largest image",
            section="Data",
            description="Width times height; larger images are rejected before they are decoded.",
        ),
        "max_reject_rate": Param(
            DEFAULT_MAX_REJECT_RATE,
            type="number",
            minimum=0,
            maximum=1,
            title="Largest share of rejects",
            section="Data",
            description="Of the images drawn. Above it the run fails, with all written. 1: never.",
        ),
        "backbone": Param(
            "mobilenet_v2",
            type="string",
            enum=sorted(BACKBONES),
            title="Backbone",
            section="Model",
            description="mobilenet_v2 gives 1,280 features, resnet50 2,048 in ten times the time.",
        ),
        "alpha": Param(
            1.0,
            type="number",
            exclusiveMinimum=0,
            maximum=2,
            title="Width multiplier",
            section="Model",
            description="Of MobileNetV2; ImageNet weights exist for 0.35, 0.5, 0.75, 1.0, 1.3 and 1.4.",
        ),
        "weights": Param(
            weights,
            type="string",
            minLength=1,
            title="Weights",
            section="Model",
            description="imagenet, a Keras weights file without top (as the worker sees it), or "
            "random:<seed> to try the pipeline.",
        ),
        "input_size": Param(
            DEFAULT_INPUT_SIZE,
            type="integer",
            enum=INPUT_SIZES,
            title="Input size",
            section="Model",
            description="Pixels, square, that images are resized to. Of MobileNetV2; ResNet50 takes 224. "
            "160 takes half the time of 224.",
        ),
        "precision": Param(
            "float32",
            type="string",
            enum=list(PRECISIONS),
            title="Precision",
            section="Model",
            description="int8 is nearly twice as fast and coarser: calibrated on the run's sample, of "
            f"{MIN_IMAGES} images at least, and measured on it.",
        ),
        "min_cosine": Param(
            DEFAULT_MIN_COSINE,
            type="number",
            minimum=0,
            maximum=1,
            title="Least mean cosine",
            section="Model",
            description="Of int8 features to those of float32; below it the run fails before a cluster is "
            "made.",
        ),
        "components": Param(
            50,
            type=["null", "integer"],
            minimum=1,
            maximum=4096,
            title="Components",
            section="Reduction",
            description="Width of the embeddings.",
        ),
        "variance": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            exclusiveMaximum=1,
            title="Variance to keep",
            section="Reduction",
            description="Such as 0.9: as few components as keep this share. When set, it decides, not "
            "the number of components.",
        ),
        "shape": Param(
            "small",
            type="string",
            enum=sorted(shapes),
            title="Cluster shape",
            section="Cluster",
            description_md="\n".join(f"- **{name}**: {text}" for name, text in sorted(shapes.items())),
        ),
        "bucket": Param(
            None,
            type=["null", "string"],
            pattern=f"^{_BUCKET.pattern}$",
            title="Bucket",
            section="Cluster",
            description="Name of the bucket, without s3://. Empty: the deployment's (FRUITS_BUCKET).",
        ),
        "regions": Param(
            [],
            type=["null", "array"],  # what may be empty is not marked as required
            items={"type": "string"},
            title="Regions",
            section="Cluster",
            description="Where this run may be, one a line, such as eu-west-3. Empty: where the deployment "
            "may. It narrows the deployment's list and cannot widen it.",
        ),
        "max_cost_usd": Param(
            DEFAULT_MAX_COST_USD,
            type="number",
            exclusiveMinimum=0,
            maximum=10_000,
            title="Most it may cost",
            section="Money",
            description="USD. A run whose estimate is above, in its dearest case, is refused before a "
            "cluster is made.",
        ),
        "notify": Param(
            "always",
            type="string",
            enum=list(NOTIFY),
            values_display=NOTIFY,
            title="Messages",
            section="Notifications",
            description="Which are sent to the deployment's topic (FRUITS_SNS_TOPIC_ARN); without one, "
            "none is.",
        ),
    }
