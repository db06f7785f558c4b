"""The contract between the stages: schemas, object keys, markers, reject reasons. It does no I/O.

The output of a stage is a prefix with one parquet object for each shard and a marker, ``_SUCCESS``,
which is written last: JSON with the counts of all shards. Readers trust no prefix without its marker.
Every JSON document has a checksum of its own values (see documents).

The parquet metadata of a shard holds its counts and a fingerprint of everything that decided its
content, so a rerun can tell from the shard alone whether to keep it.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 2
"""Raised whenever a schema or the meaning of a column changes; older output is then refused."""

MARKER = "_SUCCESS"
MANIFEST = "manifest.parquet"
LEFT_OUT = "left_out.parquet"
MODEL_FILE = "backbone.tflite"
MODEL_JSON = "model.json"
PCA_MODEL = "model.npz"
EMBEDDER = "embed.tflite"
SUMMARY = "summary.json"
REPORT = "report.html"
REUSED = "_reused"
"""Folder below the features. Tools that read a folder as one dataset skip names that begin with "_"."""

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),  # path below the source, unique in a run
        pa.field("label", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of content, hex
        pa.field("content", pa.binary(), nullable=False),  # the file's bytes, unchanged
    ]
)
LISTED_SCHEMA = pa.schema(  # instead of SAMPLE_SCHEMA where the images stay in their bucket
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),  # ETag of the object when it was listed
    ]
)
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field(
            "sha256", pa.string(), nullable=False
        ),  # "" where the images are not packed: only the workers read them
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
    ]
)
LEFT_OUT_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),  # path below the source
        pa.field("label", pa.string(), nullable=False),  # "" where it has none
        pa.field("suffix", pa.string(), nullable=False),  # in lower case, with its dot; "" for none
        pa.field("reason", pa.string(), nullable=False),  # a LeftOutReason
    ]
)
FEATURES_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("features", pa.list_(pa.float32()), nullable=False),  # length: the backbone's width
    ]
)
REJECTS_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # a RejectReason
        pa.field("detail", pa.string(), nullable=False),  # the decoder's message
    ]
)
REUSED_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),  # URI of the features shard it came from
    ]
)
EMBEDDINGS_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),  # length: the components kept
    ]
)


class RejectReason(enum.StrEnum):
    """Why an image has no features."""

    EMPTY = "empty"  # zero bytes
    NOT_AN_IMAGE = "not-an-image"  # no decoder knows the format
    TRUNCATED = "truncated"  # the file ends before the image does
    TOO_MANY_PIXELS = "too-many-pixels"  # over the limit, checked before decoding
    UNSUPPORTED_MODE = "unsupported-mode"  # pixels that have no agreed way to 8-bit RGB
    DECODE_ERROR = "decode-error"  # anything else the decoder refused


class LeftOutReason(enum.StrEnum):
    """Why a file of the source is not in the sample."""

    NOT_DRAWN = "not-drawn"  # an image that the draw did not choose
    NO_DECODER = "no-decoder"  # a format of images that is not decoded, such as HEIC
    NO_IMAGE = "no-image"  # no suffix of an image
    NO_LABEL = "no-label"  # in no folder of a label
    TOO_LARGE = "too-large"
    LINK = "link"  # out of the source, or to a folder
    NO_FILE = "no-file"  # a pipe, socket or device
    HIDDEN = "hidden"
    SYSTEM_FOLDER = "system-folder"  # made by a storage device or an operating system

    @property
    def is_loss(self) -> bool:
        """Whether the file may be an image that somebody misses."""
        return self not in (LeftOutReason.NOT_DRAWN, LeftOutReason.HIDDEN, LeftOutReason.SYSTEM_FOLDER)


class Conversion(enum.StrEnum):
    """A conversion to 8-bit RGB that can change what a picture shows."""

    TRANSPARENT = "transparent"  # composited on white
    FROM_16_BIT = "from-16-bit"  # reduced by the range that the file declares, or by 16 bits
    ASSUMED_12_BIT = "assumed-12-bit"  # the file declares 16 bits, but no value is above 4,095


def shard_key(shard: int) -> str:
    """Key of a shard's object. A retry writes the same key, so it replaces the object and adds none."""
    return f"shard-{shard:05d}.parquet"


def reused_key(shard: int) -> str:
    """Key, below the features, of the list of a shard's features that are taken over from an earlier run."""
    return f"{REUSED}/{shard_key(shard)}"


def shard_number(key: str) -> int | None:
    """The number of a shard's key or path; None for any other name."""
    name = key.rpartition("/")[2]
    digits = name.removeprefix("shard-").removesuffix(".parquet")
    return int(digits) if digits.isdecimal() and shard_key(int(digits)) == name else None


def digest_of(*parts: str) -> str:
    """SHA-256 (hex) of a list of strings; different lists have different digests."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


def content_digest(images: Iterable[str], labels: Iterable[str], sha256: Iterable[str]) -> str:
    """Digest of a sample shard's content: its images, with their labels and bytes, in their order.

    ``sha256`` identifies the bytes; for images that are listed and not read, size and version do.
    """
    rows = hashlib.sha256()
    for row in zip(images, labels, sha256, strict=True):
        rows.update(json.dumps(row).encode())
    return rows.hexdigest()


@dataclass(frozen=True)
class SampleShard:
    """A shard of the sample, in its parquet metadata and in the marker."""

    shard: int
    images: int
    bytes: int
    digest: str  # content_digest


@dataclass(frozen=True)
class FeaturesShard:
    """Counts of a features shard, in its parquet metadata and in the marker."""

    shard: int
    images: int
    features: int
    rejects: dict[str, int]  # RejectReason -> images
    fingerprint: str  # of sample shard, model, preprocessing, versions.deciding() and schema
    reused: int = 0  # of the features: those taken over from an earlier run
    conversions: dict[str, int] = field(default_factory=dict)  # Conversion -> images, of those computed


@dataclass(frozen=True)
class EmbeddingsShard:
    """Counts of an embeddings shard, in its parquet metadata and in the marker."""

    shard: int
    rows: int
    fingerprint: str  # of the features shard and the fitted PCA


@dataclass(frozen=True)
class LeftOut:
    """Files of the source that are not in the sample, of one reason and suffix."""

    reason: str  # a LeftOutReason
    suffix: str  # in lower case, with its dot; "" for none, "*" for all that are not counted by themselves
    files: int
    example: str  # path of the first one below the source

    @property
    def is_loss(self) -> bool:
        """As LeftOutReason.is_loss; true for a reason of another release."""
        return self.reason not in set(LeftOutReason) or LeftOutReason(self.reason).is_loss


@dataclass(frozen=True)
class SampleMarker:
    """``sample/_SUCCESS``."""

    images: int
    bytes: int
    labels: dict[str, int]  # images drawn, per label
    seed: int
    source: str
    request_digest: str  # of the whole request; a rerun with another request is refused
    shards: list[SampleShard]
    cores: int = 1  # of the cluster that the shards were cut for
    packed: bool = True  # False: the shards list the images, the workers read them from the source
    source_files: int | None = None  # images + files left out; None in markers of older releases
    left_out: list[LeftOut] = field(default_factory=list)  # counts of what left_out.parquet lists
    labels_without_images: list[str] = field(default_factory=list)  # of the source, without one in the sample
    labels_alike: list[list[str]] = field(default_factory=list)  # differ in capitals or Unicode form only
    requester_pays: bool = False  # whoever reads the source pays for the requests
    manifest_digest: str = ""  # SHA-256 of manifest.parquet, hex; "" in markers of older releases
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class FeaturesMarker:
    """``features/_SUCCESS``."""

    images: int
    features: int
    rejects: int
    rejects_by_reason: dict[str, int]
    width: int
    model_digest: str
    backbone: str
    weights: str
    preprocessing: str  # images.preprocessing_of()
    shards: list[FeaturesShard]
    computed_shards: int  # in the last attempt; the others were kept
    seconds: float  # of the last attempt
    reused: int = 0  # of the features: taken over from an earlier run; see reused_key
    reuse: str | None = None  # that run's URI, in the last attempt
    runtime: str = ""  # versions.deciding() of the nodes; "" in markers of older releases
    conversions: dict[str, int] = field(default_factory=dict)  # Conversion -> images, of those computed
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        return digest_of(*(s.fingerprint for s in self.shards))


@dataclass(frozen=True)
class PcaMarker:
    """``pca/_SUCCESS``."""

    images: int
    width: int
    components: int
    variance_kept: float  # sum of the kept explained_variance_ratio
    features_digest: str
    request: str  # "components=50" or "variance=0.9"
    shards: list[EmbeddingsShard]
    seconds: float
    embedder_digest: str | None = None  # SHA-256 of embed.tflite, hex; None when it was not requested
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class PcaSummary:
    """``pca/summary.json``: counts, digests and versions of the features and their PCA."""

    images: int
    features: int
    rejects: int
    rejects_by_reason: dict[str, int]
    backbone: str
    weights: str
    model_digest: str
    features_digest: str
    pca_digest: str
    embedder_digest: str | None
    width: int
    request: str  # as in PcaMarker
    components: int
    variance_kept: float
    explained_variance: list[float]
    explained_variance_ratio: list[float]
    seconds: dict[str, float]  # by step
    versions: dict[str, str]  # of packages and of Spark
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class BackboneSpec:
    """``model.json``: what the job code needs to know of the exported backbone."""

    backbone: str  # Keras application, "mobilenet_v2"
    alpha: float  # width multiplier; 1.0 for backbones without one
    weights: str  # "imagenet", "random:<seed>" or the file's name
    input_size: int  # pixels, square
    width: int  # features for each image
    preprocessing: str  # the backbone's Keras preprocess_input mode: "tf" or "caffe"
    batch: int  # images in an invocation
    digest: str  # SHA-256 of backbone.tflite, hex
    keras_agreement: float  # largest relative difference to Keras, measured at the export
    exported_with: dict[str, str] = field(default_factory=dict)  # package versions
    precision: str = "float32"  # "float32" or "int8"; input and output are float32 with either
    # Of int8: how its features compare with those of float32, see fruit_pipeline.model.quantise.Quality.
    quality: dict[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class RunLayout:
    """The URIs of one run's objects."""

    root: str  # s3://<bucket>/runs/<run key>

    def _below(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    @property
    def sample(self) -> str:
        return self._below("sample")

    @property
    def features(self) -> str:
        return self._below("features")

    @property
    def rejects(self) -> str:
        return self._below("rejects")

    @property
    def pca(self) -> str:
        return self._below("pca")

    @property
    def code(self) -> str:
        return self._below("code")

    @property
    def logs(self) -> str:
        return self._below("logs")

    @property
    def report(self) -> str:
        return self._below(REPORT)


@dataclass(frozen=True)
class EstimateCase:
    """One case of an estimate, for the cluster of a run."""

    seconds: dict[str, float]  # by stage
    total_seconds: float
    instance_hours: float
    usd: dict[str, float]  # by part of the bill
    total_usd: float


@dataclass(frozen=True)
class CostEstimate:
    """Time and cost of a run's cluster, estimated before the run."""

    images: int
    shape: str
    region: str
    prices_of: str  # date of the oldest price
    low: EstimateCase
    expected: EstimateCase
    high: EstimateCase
    storage_usd_month: float  # of the objects that the run leaves in S3


@dataclass(frozen=True)
class ActualCost:
    """Cost of a cluster: list prices times the lifetimes of its instances. Without S3's requests."""

    seconds: float  # from the request of the cluster to its end
    instance_hours: float
    usd: dict[str, float]  # by part of the bill
    total_usd: float
    ended: bool  # False: the cluster was still alive when this was computed
    prices_of: str  # date of the oldest price
    unpriced: list[str]  # instance types without a price, which add no cost


@dataclass(frozen=True)
class UnknownCost:
    """Stands for an actual cost that could not be computed."""

    unknown: str  # why


@dataclass(frozen=True)
class RunCost:
    """Cost of a run in USD, before tax."""

    estimate: CostEstimate
    by_the_clock: ActualCost | UnknownCost

    @property
    def actual(self) -> ActualCost | None:
        return self.by_the_clock if isinstance(self.by_the_clock, ActualCost) else None


@dataclass(frozen=True)
class RunPlaces:
    """URIs of a run's outputs."""

    sample: str
    model: str
    features: str
    rejects: str
    embeddings: str
    logs: str
    report: str


@dataclass(frozen=True)
class RunSummary:
    """``summary.json`` of a run."""

    run_key: str
    request: dict[str, Any]  # the Params of the run, checked
    images: int  # of the manifest
    features: int
    reused: int  # of the features: those taken over from an earlier run
    rejects: int
    rejects_by_reason: dict[str, int]
    labels: int
    width: int  # features an image
    components: int
    variance_kept: float  # sum of the kept explained_variance_ratio
    checks: list[str]  # what was checked, one sentence each
    backbone: str
    weights: str
    weights_are_random: bool
    input_size: int
    precision: str
    quality: dict[str, Any]  # of int8, as in BackboneSpec
    digests: dict[str, str | None]  # SHA-256, hex, by name; None for a file that was not asked for
    seconds: dict[str, float]  # by stage
    cost: RunCost
    wheel_bytes: int  # of the packages that each node installs
    versions: dict[str, str]
    cluster_id: str
    places: RunPlaces
    source_files: int | None = None  # of the source: images + files left out
    left_out: list[LeftOut] = field(default_factory=list)
    labels_without_images: list[str] = field(default_factory=list)
    conversions: dict[str, int] = field(default_factory=dict)  # Conversion -> images, of those computed
    labels_alike: list[list[str]] = field(default_factory=list)
