"""What one run is asked to do: the DAG's Params, checked at the border, and the form that offers them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fruit_pipeline.model.backbones import (
    BackboneRequest,
)
from fruit_pipeline.sample.request import SampleRequest
from image_features.contract import RunLayout
from image_features.errors import JobError

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
