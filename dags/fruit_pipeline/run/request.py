"""The request of one run: the Params of the DAG, each declared once, and their check."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fruit_pipeline.cost.estimate import Work
from fruit_pipeline.cost.measured import SMALL_IMAGE_BYTES
from fruit_pipeline.model.backbones import (
    BACKBONES,
    DEFAULT_INPUT_SIZE,
    DEFAULT_MIN_COSINE,
    INPUT_SIZES,
    MIN_IMAGES,
    PRECISIONS,
    BackboneRequest,
)
from fruit_pipeline.run.params import param, specs_of
from fruit_pipeline.sample.labels import FIRST, LABEL_FROM
from fruit_pipeline.sample.request import SampleRequest
from image_features.contract import RunLayout
from image_features.errors import JobError
from image_features.images import DEFAULT_MAX_PIXELS
from image_features.storage import normalise_uri

DEFAULT_MAX_REJECT_RATE = 0.5
"""With more than half rejected, the folder is the wrong one or was copied badly. With less, some files are
bad, and the report lists them. Choose a lower limit for a source that you know: docs/hostile-inputs.md."""

NOTIFY = {
    "always": "always: the cluster is ready, the run has finished or failed",
    "failures": "failures: only that the run failed",
    "never": "never",
}
"""When a run sends messages, with the texts of the trigger form."""

RUN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

# The whole value must match. JSON Schema searches, and Python's $ also matches before a last line break.
_WHOLE = "^(?:{})$(?!\n)"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The checked request of a run. Every field but ``dag_run`` is a Param of the DAG of the same name."""

    source: str = param(
        "",
        "Source",
        "Data",
        "Folder (as the Airflow worker sees it) or s3:// prefix of <label>/<image>.",
        type="string",
    )
    per_label: int | None = param(
        None,
        "Images per label",
        "Data",
        "Draw this many of each label. Empty, with no total: all images.",
        type=["null", "integer"],
        minimum=1,
    )
    total: int | None = param(
        None,
        "Images in total",
        "Data",
        "Draw this many in all, labels in proportion. Give this or images per label.",
        type=["null", "integer"],
        minimum=1,
    )
    labels: tuple[str, ...] = param(
        [],
        "Labels",
        "Data",
        "Only these labels, one a line. Empty: all.",
        type=["null", "array"],  # without null, the form marks an empty list as missing
        items={"type": "string"},
    )
    label_from: str = param(
        FIRST,
        "Label",
        "Data",
        "The folder that gives an image its label: the first below the source, the one that holds the image, "
        "the one at a depth, or none, so that all have one label.",
        type="string",
        enum=list(LABEL_FROM),
        values_display=LABEL_FROM,
    )
    seed: int = param(
        0, "Seed", "Data", "The same seed draws the same sample on any machine.", type="integer"
    )
    pack: bool = param(
        True,
        "Copy the images",
        "Data",
        "Pack them into the run, about 1,000 an object. Off, for an s3:// source: nothing is copied, the "
        "nodes read the images from the source.",
        type="boolean",
    )
    run_key: str = param(
        None,
        "Resume run",
        "Data",
        "Key of an earlier run to complete: finished shards are not computed again. Empty: a new run, named "
        "after its run id.",
        type=["null", "string"],
        pattern=_WHOLE.format(RUN_KEY.pattern),
        errorMessage="expected letters, digits, '.', '_' and '-' only, 100 at most",
    )
    # The URI of the run; its Param also takes a key.
    reuse: str | None = param(
        None,
        "Earlier run to reuse",
        "Data",
        "Key of a run in the same bucket, or its s3:// URI: its features of images with the same bytes are "
        "taken over, and only the others are computed.",
        type=["null", "string"],
        pattern=_WHOLE.format(rf"\s*(?:s3://.+|{RUN_KEY.pattern}/*|)\s*"),
        errorMessage="expected an earlier run's key, or its s3:// URI",
    )
    max_pixels: int = param(
        DEFAULT_MAX_PIXELS,
        "Largest image",
        "Data",
        "Width times height; larger images are rejected before they are decoded.",
        type="integer",
        minimum=1,
        maximum=500_000_000,
    )
    max_reject_rate: float = param(
        DEFAULT_MAX_REJECT_RATE,
        "Largest share of rejects",
        "Data",
        "Of the images drawn. Above it the run fails, after all results are written. 1: never.",
        type="number",
        minimum=0,
        maximum=1,
    )
    count_left_out: bool = param(
        False,
        "Count files left out",
        "Data",
        "As rejects, for the share above: files that may be images, such as HEIC, too large or in no "
        "label. Too many are refused before a cluster is created.",
        type="boolean",
    )
    backbone: str = param(
        "mobilenet_v2",
        "Backbone",
        "Model",
        "mobilenet_v2 gives 1,280 features, resnet50 2,048 in ten times the time.",
        type="string",
        enum=sorted(BACKBONES),
    )
    alpha: float = param(
        1.0,
        "Width multiplier",
        "Model",
        "Of MobileNetV2; ImageNet weights exist for 0.35, 0.5, 0.75, 1.0, 1.3 and 1.4.",
        type="number",
        exclusiveMinimum=0,
        maximum=2,
    )
    weights: str = param(
        "imagenet",
        "Weights",
        "Model",
        "imagenet, a Keras weights file without top (as the worker sees it), or random:<seed> to try the "
        "pipeline.",
        type="string",
        minLength=1,
    )
    input_size: int = param(
        DEFAULT_INPUT_SIZE,
        "Input size",
        "Model",
        "Images are resized to a square of this many pixels a side. For MobileNetV2; ResNet50 takes 224. 160 "
        "takes half the time of 224.",
        type="integer",
        enum=INPUT_SIZES,
    )
    precision: str = param(
        "float32",
        "Precision",
        "Model",
        "int8 is nearly twice as fast and less exact: it is calibrated on the run's sample, of "
        f"{MIN_IMAGES} images at least, and compared with float32 on it.",
        type="string",
        enum=list(PRECISIONS),
    )
    min_cosine: float = param(
        DEFAULT_MIN_COSINE,
        "Least mean cosine",
        "Model",
        "Between features of int8 and of float32; below it the run fails before a cluster is created.",
        type="number",
        minimum=0,
        maximum=1,
    )
    components: int | None = param(
        50,
        "Components",
        "Reduction",
        "Width of the embeddings.",
        type=["null", "integer"],
        minimum=1,
        maximum=4096,
    )
    variance: float | None = param(
        None,
        "Variance to keep",
        "Reduction",
        "Such as 0.9: as few components as keep this share. When set, it replaces the number of components.",
        type=["null", "number"],
        exclusiveMinimum=0,
        exclusiveMaximum=1,
    )
    # The form lists the names and descriptions of the shapes.
    shape: str = param("small", "Cluster shape", "Cluster", "Name of a file in emr_configs.", type="string")
    bucket: str = param(
        None,
        "Bucket",
        "Cluster",
        "Name of the bucket, without s3://. Empty: the deployment's (FRUITS_BUCKET).",
        type=["null", "string"],
        pattern=_WHOLE.format(BUCKET.pattern),
        errorMessage="expected the name of an S3 bucket alone, without s3://",
    )
    # The run's own list of allowed regions; empty: the deployment's.
    regions: tuple[str, ...] = param(
        [],
        "Regions",
        "Cluster",
        "Where this run may be, one a line, such as eu-west-3. Empty: where the deployment may. It narrows "
        "the deployment's list and cannot widen it.",
        type=["null", "array"],
        items={"type": "string"},
    )
    max_cost_usd: float = param(
        5.0,
        "Most it may cost",
        "Money",
        "USD. A run whose estimate is above, in its high case, is refused before a cluster is created.",
        type="number",
        exclusiveMinimum=0,
        maximum=10_000,
    )
    notify: str = param(
        "always",
        "Messages",
        "Notifications",
        "Which are sent to the deployment's topic (FRUITS_SNS_TOPIC_ARN); without one, none is.",
        type="string",
        enum=list(NOTIFY),
        values_display=NOTIFY,
    )
    dag_run: str  # the DAG run's id as a tag may hold it

    @property
    def layout(self) -> RunLayout:
        return RunLayout(f"s3://{self.bucket}/runs/{self.run_key}")

    @property
    def model(self) -> BackboneRequest:
        return BackboneRequest(self.backbone, self.alpha, self.weights, self.input_size)

    def sample(self, cores: int) -> SampleRequest:
        """The sample to draw for a cluster of ``cores`` cores. Raises JobError when it cannot be."""
        return SampleRequest(
            self.source,
            self.per_label,
            self.total,
            self.labels,
            self.seed,
            cores,
            pack=self.pack,
            label_from=self.label_from,
        )

    def work(self, images: int, total_bytes: int | None = None) -> Work:
        """The computation to estimate, for ``images`` files of ``total_bytes`` in all (None: not known)."""
        return Work(
            images,
            SMALL_IMAGE_BYTES if total_bytes is None else total_bytes / max(images, 1),
            self.backbone,
            self.alpha,
            self.input_size,
            self.precision,
            self.pack,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as XCom keeps them."""
        return {**asdict(self), "labels": list(self.labels), "regions": list(self.regions)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> RunRequest:
        lists = {name: tuple(values[name]) for name in ("labels", "regions")}
        return RunRequest(**{**values, **lists})


PARAMS = specs_of(RunRequest)
"""The Params of the DAG by name, in the order of the trigger form."""


def from_params(params: Mapping[str, Any], run_id: str, default_bucket: str | None) -> RunRequest:
    """The request that the DAG's Params make. Raises JobError that names the Param at fault."""
    values = {name: spec.parse(name, params[name]) for name, spec in PARAMS.items()}
    values["source"] = values["source"].strip()
    if not values["source"]:
        raise JobError(
            "no source: set the Param 'source' to a folder or an s3:// prefix of <label>/<image>, or "
            "FRUITS_SOURCE for the deployment"
        )
    values["bucket"] = PARAMS["bucket"].parse("bucket", values["bucket"] or default_bucket)
    if not values["bucket"]:
        raise JobError("no bucket: set the Param 'bucket', or FRUITS_BUCKET for the deployment")
    values["run_key"] = values["run_key"] or key_of(run_id)
    values["reuse"] = _run_uri(values["bucket"], values["reuse"])
    if values["variance"] is not None:
        values["components"] = None
    return RunRequest(**values, dag_run=key_of(run_id))


def _run_uri(bucket: str, key_or_uri: str | None) -> str | None:
    """URI of the run that ``reuse`` names."""
    text = (key_or_uri or "").strip().rstrip("/")
    if text.startswith("s3://"):
        return normalise_uri(text)
    if not text:
        return None
    return RunLayout(f"s3://{bucket}/runs/{text}").root


def key_of(run_id: str) -> str:
    """A run id as one path segment; a few digits of its digest keep two ids apart."""
    key = re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).strip("-._")[:80] or "run"
    return key if key == run_id else f"{key}-{hashlib.sha256(run_id.encode()).hexdigest()[:6]}"
