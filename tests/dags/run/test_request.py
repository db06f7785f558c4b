"""Params become a request or a refusal that names the Param; the form refuses what it can."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fruit_pipeline.cluster import shapes as cluster_shapes
from fruit_pipeline.dag.form import form
from fruit_pipeline.run.request import RunRequest, from_params, key_of
from image_features.errors import JobError

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@pytest.fixture(scope="module")
def params(repo: Path) -> dict[str, Any]:
    return form(cluster_shapes.descriptions(repo))


@pytest.fixture
def values(params: dict[str, Any]) -> dict[str, Any]:
    """The form as it is sent when only the source is filled in."""
    return {**{name: param.resolve() for name, param in params.items()}, "source": "/data/fruits"}


def test_the_forms_defaults_are_a_run_of_all_images(values: dict[str, Any]) -> None:
    request = from_params(values, "first", "team-bucket")
    assert request == RunRequest(
        source="/data/fruits",
        per_label=None,
        total=None,
        labels=(),
        seed=0,
        pack=True,
        reuse=None,
        max_pixels=51_000_000,
        max_reject_rate=0.5,
        count_left_out=False,
        label_from="first",
        backbone="mobilenet_v2",
        alpha=1.0,
        weights="imagenet",
        input_size=224,
        precision="float32",
        min_cosine=0.95,
        components=50,
        variance=None,
        shape="small",
        bucket="team-bucket",
        regions=(),
        max_cost_usd=5.0,
        notify="always",
        run_key="first",
        dag_run="first",
    )
    assert request.layout.pca == "s3://team-bucket/runs/first/pca"


def test_the_form_offers_the_deployments_source_and_weights(repo: Path) -> None:
    offered = form(cluster_shapes.descriptions(repo), "/images", "/weights/mine.h5")
    assert offered["source"].resolve() == "/images"
    assert offered["weights"].resolve() == "/weights/mine.h5"


def test_a_runs_own_bucket_and_key_win(values: dict[str, Any]) -> None:
    request = from_params({**values, "bucket": "mine", "run_key": "older-run"}, "id", "team-bucket")
    assert request.layout.root == "s3://mine/runs/older-run"


def test_a_resumed_run_keeps_its_key_and_is_another_dag_run(values: dict[str, Any]) -> None:
    request = from_params(
        {**values, "run_key": "older-run"}, "manual__2026-11-20T10:00:00+00:00", "team-bucket"
    )
    assert request.run_key == "older-run"
    assert request.dag_run == key_of("manual__2026-11-20T10:00:00+00:00")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("older", "s3://team-bucket/runs/older"),
        ("s3://other/runs/older/", "s3://other/runs/older"),
        ("", None),
        (None, None),
    ],
)
def test_an_earlier_run_is_a_key_or_a_uri(values: dict[str, Any], given: str, expected: str | None) -> None:
    assert from_params({**values, "reuse": given}, "id", "team-bucket").reuse == expected


@pytest.mark.parametrize("given", ["a b", "../up", "/data/runs/older", "file:///older"])
def test_an_earlier_run_that_is_neither_is_refused(values: dict[str, Any], given: str) -> None:
    with pytest.raises(JobError, match="expected an earlier run's key, or its s3:// URI"):
        from_params({**values, "reuse": given}, "id", "team-bucket")


def test_a_folder_must_be_packed(values: dict[str, Any]) -> None:
    request = from_params({**values, "source": "/data/fruits", "pack": False}, "id", "team-bucket")
    with pytest.raises(JobError, match="/data/fruits is not an s3:// prefix: the workers cannot read it"):
        request.sample(cores=8)


def test_variance_wins_over_components(values: dict[str, Any]) -> None:
    request = from_params({**values, "variance": 0.9, "components": 50}, "id", "b-1")
    assert (request.components, request.variance) == (None, 0.9)


def test_a_request_survives_xcom(values: dict[str, Any]) -> None:
    change = {"labels": ["a", "b"], "alpha": 1, "regions": ["eu-west-3"], "max_cost_usd": 2}
    request = from_params({**values, **change}, "id", "bucket")
    plain = request.to_dict()
    assert (plain["labels"], plain["regions"], plain["max_cost_usd"]) == (["a", "b"], ["eu-west-3"], 2.0)
    assert RunRequest.from_dict(plain) == request


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bucket": None}, "set the Param 'bucket', or FRUITS_BUCKET"),
        ({"bucket": "s3://team"}, "without s3://"),
        ({"bucket": "Team_Bucket"}, "bucket is 'Team_Bucket'; expected the name of an S3 bucket alone"),
        ({"source": ""}, "set the Param 'source' to a folder or .*, or FRUITS_SOURCE for the deployment"),
        ({"source": "  "}, "set the Param 'source'"),
        ({"run_key": "a/b"}, "run_key is 'a/b'; expected letters, digits"),
        ({"run_key": "../other"}, r"run_key is '\.\./other'"),
        ({"run_key": "a" * 101}, "100 at most"),
        ({"run_key": "a\n"}, r"run_key is 'a\\n'; expected"),
        ({"components": 0}, "components: 0 is less than the minimum of 1"),
        ({"backbone": "vgg16"}, r"backbone: 'vgg16' is not one of \['mobilenet_v2', 'resnet50'\]"),
        ({"seed": True}, "seed: True is not of type 'integer'"),
    ],
)
def test_a_param_at_fault_is_named(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        from_params({**values, **change}, "id", None if "bucket" in change else "team-bucket")


RUN_IDS = [
    "manual__2026-11-20T10:00:00.000001+00:00",
    "manual__2026-11-20T10:00:00.000001-00:00",
    "simple",
    "with space",
    "with-space",
    "with  space",
    "../../etc/passwd",
    "a/b",
    "a-b",
    "été",
    "果物",
    "りんご",
    "...",
    "---",
    "___",
    "_",
    "~",
    "x" * 100,
    "x" * 250,
    "x" * 251,
]


@pytest.mark.parametrize("run_id", RUN_IDS)
def test_every_run_id_gives_a_key_that_is_one_safe_segment(run_id: str, values: dict[str, Any]) -> None:
    assert SAFE.fullmatch(key_of(run_id))
    assert from_params(values, run_id, "bucket").run_key == key_of(run_id)


def test_distinct_run_ids_have_distinct_keys() -> None:
    assert len({key_of(run_id) for run_id in RUN_IDS}) == len(RUN_IDS)


def test_a_run_id_that_is_safe_is_its_own_key() -> None:
    assert key_of("nightly-2026.11_20") == "nightly-2026.11_20"


# The form


def test_every_param_has_a_title_a_section_and_a_description(params: dict[str, Any]) -> None:
    for name, param in params.items():
        assert param.schema.get("title"), name
        # Airflow shows the Markdown only where there is no plain text.
        assert bool(param.description) != bool(param.schema.get("description_md")), name
        assert "`" not in (param.description or ""), name


def test_the_form_has_six_sections_in_the_order_of_a_runs_work(params: dict[str, Any]) -> None:
    sections = dict.fromkeys(param.schema["section"] for param in params.values())
    assert list(sections) == ["Data", "Model", "Reduction", "Cluster", "Money", "Notifications"]


def test_every_field_of_a_request_has_a_param(params: dict[str, Any], values: dict[str, Any]) -> None:
    fields = set(from_params(values, "id", "bucket").to_dict())
    assert fields - set(params) == {"dag_run"}  # which Airflow says
    assert set(params) <= fields


def test_the_forms_defaults_are_valid(params: dict[str, Any]) -> None:
    for param in params.values():
        param.resolve()


def test_the_form_offers_every_shape_with_its_description(params: dict[str, Any], repo: Path) -> None:
    shapes = cluster_shapes.descriptions(repo)
    assert params["shape"].schema["enum"] == sorted(shapes)
    for name, text in shapes.items():
        assert f"- **{name}**: {text}" in params["shape"].schema["description_md"].splitlines()


BAD_VALUES = [
    ("per_label", 0),
    ("per_label", "3"),
    ("total", -1),
    ("labels", "apple"),
    ("labels", [1]),
    ("seed", 0.5),
    ("max_pixels", 0),
    ("max_reject_rate", -0.1),
    ("max_reject_rate", 1.1),
    ("max_reject_rate", "half"),
    ("backbone", "vgg16"),
    ("alpha", 0),
    ("alpha", 2.1),
    ("weights", ""),
    ("input_size", 100),
    ("input_size", "160"),
    ("precision", "float16"),
    ("min_cosine", 1.1),
    ("min_cosine", -0.1),
    ("components", 0),
    ("components", 5000),
    ("variance", 0),
    ("variance", 1),
    ("shape", "huge"),
    ("bucket", 5),
    ("bucket", "s3://team"),
    ("notify", "sometimes"),
    ("notify", None),
    ("max_cost_usd", 0),
    ("run_key", "a b"),
    ("run_key", "../up"),
    ("run_key", "a/b"),
    ("pack", "no"),
    ("reuse", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_the_form_refuses_a_bad_value(params: dict[str, Any], name: str, value: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        params[name].resolve(value)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in BAD_VALUES if n != "shape"])
def test_a_request_refuses_what_the_form_refuses(values: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(JobError, match=f"^{name}(:| is) ") as refused:
        from_params({**values, name: value}, "id", "team-bucket")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_label", 1),
        ("labels", ["Apple red", "Plum"]),
        ("seed", -1),
        ("max_reject_rate", 0),
        ("max_reject_rate", 1),
        ("backbone", "resnet50"),
        ("alpha", 1),
        ("input_size", 96),
        ("precision", "int8"),
        ("min_cosine", 0),
        ("components", None),
        ("variance", 0.9),
        ("bucket", "team-bucket"),
        ("notify", "failures"),
        ("run_key", "manual__2026-11-20T10-00-00-abc123"),
        ("run_key", None),
        ("reuse", " s3://other/runs/older/ "),
        ("reuse", ""),
    ],
)
def test_the_form_takes_a_good_value(params: dict[str, Any], name: str, value: Any) -> None:
    assert params[name].resolve(value) == value
