"""The Params of the trigger form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fruit_pipeline.model.backbones import (
    BACKBONES,
    DEFAULT_INPUT_SIZE,
    DEFAULT_MIN_COSINE,
    INPUT_SIZES,
    MIN_IMAGES,
    PRECISIONS,
)
from fruit_pipeline.run.request import (
    _BUCKET,
    _RUN_KEY,
    DEFAULT_MAX_COST_USD,
    DEFAULT_MAX_REJECT_RATE,
    NOTIFY,
)
from image_features.images import DEFAULT_MAX_PIXELS


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
