"""What a run will take and cost: the figures follow from work, shape and prices, and hold the budget."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fruit_pipeline.cluster import shapes
from fruit_pipeline.cluster.shapes import Shape
from fruit_pipeline.cost import actual, estimate, measured, prices
from fruit_pipeline.cost.estimate import Work
from fruit_pipeline.cost.prices import Figure, InstancePrice, Prices
from image_features.contract import ActualCost, CostEstimate
from image_features.errors import JobError
from support.cli import run_cli
from support.local_aws import REGION, LocalAws
from support.waiting import eventually

FRUITS = 67_692


@pytest.fixture(scope="module")
def price_list(repo: Path) -> Prices:
    return prices.load(repo, REGION)


@pytest.fixture(scope="module")
def small(repo: Path) -> Shape:
    return shapes.load_shape(repo, "small")


@pytest.fixture(scope="module")
def standard(repo: Path) -> Shape:
    return shapes.load_shape(repo, "standard")


@pytest.fixture(scope="module")
def of_fruits(standard: Shape, price_list: Prices) -> CostEstimate:
    return estimate.estimate(Work(FRUITS), "standard", standard, price_list)


# Goals


@pytest.mark.parametrize("name", ["standard", "graviton"])
def test_67692_images_cost_less_than_half_a_dollar_and_take_less_than_a_quarter_of_an_hour(
    repo: Path, price_list: Prices, name: str
) -> None:
    found = estimate.estimate(Work(FRUITS), name, shapes.load_shape(repo, name), price_list)
    assert found.expected.total_usd < 0.50
    assert found.expected.total_seconds < 15 * 60


# Time


def seconds(work: Work, shape: Shape, price_list: Prices, stage: str = "extract features") -> float:
    return estimate.estimate(work, "s", shape, price_list).expected.seconds[stage]


def test_extraction_takes_what_the_measured_rate_says_of_the_shapes_vcpus(
    small: Shape, price_list: Prices
) -> None:
    images = 1_000_000  # one shard more or less does not matter
    rate = measured.RATE * measured.VCPU_SPEEDS["5"] * small.worker_cores
    found = seconds(Work(images), small, price_list) - measured.STEP_SECONDS
    assert found == pytest.approx(images / rate, rel=0.01)


def test_the_last_shard_is_waited_for(small: Shape, price_list: Prices) -> None:
    """With one shard a core and task after task, the last one runs alone: that is a shard's time more."""
    work = Work(100_000)
    one = work.core_seconds / measured.VCPU_SPEEDS["5"]
    found = seconds(work, small, price_list) - measured.STEP_SECONDS
    assert found == pytest.approx(one * (100_000 / small.worker_cores + 1000), abs=0.1)


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"precision": "int8"}, 1 / 1.9),
        ({"input_size": 160}, 0.51),
        ({"input_size": 96}, 0.5),  # smaller than measured: no faster
        ({"backbone": "resnet50"}, 10.4),
        ({"alpha": 1.4}, 1.96),
        ({"alpha": 0.35}, 1.0),  # not measured: no faster
    ],
)
def test_precision_input_size_and_backbone_change_the_time_of_an_image(
    change: dict[str, Any], factor: float
) -> None:
    assert replace(Work(1), **change).core_seconds == pytest.approx(Work(1).core_seconds * factor, rel=0.01)


def test_large_files_take_longer_to_decode() -> None:
    photo = Work(1, image_bytes=4_006_000)
    assert photo.core_seconds == pytest.approx(
        Work(1).core_seconds + 4 * measured.DECODE_SECONDS_PER_MB, rel=0.001
    )
    assert Work(1, image_bytes=100).core_seconds == Work(1).core_seconds


def test_wider_features_make_the_pca_longer(small: Shape, price_list: Prices) -> None:
    stage = "reduce with PCA"
    fixed = measured.STEP_SECONDS + measured.PCA_SECONDS
    narrow = seconds(Work(1_000_000), small, price_list, stage) - fixed
    wide = seconds(Work(1_000_000, backbone="resnet50"), small, price_list, stage) - fixed
    assert wide == pytest.approx(narrow * 2.56, rel=0.01)


@pytest.mark.parametrize(
    ("name", "speed"),
    [
        ("m5.xlarge", "5"),
        ("m5d.2xlarge", "5"),
        ("m5a.xlarge", "5a"),
        ("m5ad.xlarge", "5a"),
        ("c6i.xlarge", "6i"),
        ("r6id.xlarge", "6i"),
        ("m6gd.xlarge", "6g"),
        ("r7g.xlarge", "7g"),
        ("m7i-flex.xlarge", "7i"),
    ],
)
def test_a_vcpu_is_as_fast_as_its_generation_and_maker(name: str, speed: str) -> None:
    assert estimate.vcpu_speed(name) == measured.VCPU_SPEEDS[speed]


def test_an_unknown_generation_is_taken_for_slow() -> None:
    assert (
        estimate.vcpu_speed("x9z.xlarge")
        == measured.OTHER_VCPU_SPEED
        == min(measured.OTHER_VCPU_SPEED, *measured.VCPU_SPEEDS.values())
    )


# Money


def test_an_on_demand_cluster_costs_its_instances_fees_and_volumes_for_its_whole_life(
    small: Shape, price_list: Prices
) -> None:
    case = estimate.estimate(Work(10_000), "small", small, price_list).expected
    hours = sum(case.seconds.values()) / 3600
    assert case.instance_hours == pytest.approx(3 * hours, abs=0.001)
    assert case.usd["EC2"] == pytest.approx(3 * hours * 0.224, rel=0.01)
    assert case.usd["EMR"] == pytest.approx(3 * hours * 0.048, rel=0.01)
    gigabytes = small.ebs_gb + measured.ROOT_GB
    assert case.usd["EBS"] == pytest.approx(3 * hours * gigabytes * 0.0928 / 730, abs=0.0001)
    assert case.total_usd == pytest.approx(sum(case.usd.values()), abs=0.001)


def fleets(shape: Shape, **task: Any) -> Shape:
    """`standard` with another task fleet."""
    *others, last = shape.instance_fleets
    return replace(shape, instance_fleets=[*others, {**last, **task}])


def made_up(**hourly: tuple[float, float]) -> Prices:
    """Prices on demand and as Spot, without fees."""
    figure = {name: (Figure(ec2, "s"), Figure(spot, "s")) for name, (ec2, spot) in hourly.items()}
    instances = {
        name.replace("_", "."): InstancePrice(ec2, Figure(1e-9, "s"), spot)
        for name, (ec2, spot) in figure.items()
    }
    nothing = Figure(1e-12, "s")
    source = prices.Source("2026-01-01", "made up")
    return Prices(REGION, {"s": source}, instances, nothing, nothing, nothing, nothing)


def test_the_cases_are_those_of_the_cheapest_the_mean_and_the_most_expensive_type(standard: Shape) -> None:
    """Two types for the task nodes, one of which counts twice and so is bought half as often."""
    one = [{"InstanceType": "m5.xlarge"}]
    kinds = [{"InstanceType": "m5.xlarge"}, {"InstanceType": "m5.2xlarge", "WeightedCapacity": 2}]
    shape = fleets(standard, InstanceTypeConfigs=kinds)
    others = [{**fleet, "InstanceTypeConfigs": one} for fleet in shape.instance_fleets[:2]]
    shape = replace(shape, instance_fleets=[*others, shape.instance_fleets[2]])
    found = estimate.estimate(Work(FRUITS), "s", shape, made_up(m5_xlarge=(1.0, 0.5), m5_2xlarge=(3.0, 0.6)))
    hourly = {
        "low": 3 * 1.0 + min(4 * 0.5, 2 * 0.6),
        "expected": 3 * 1.0 + (4 * 0.5 + 2 * 0.6) / 2,
        "high": 3 * 1.0 + max(4 * 1.0, 2 * 3.0),  # nothing left of Spot
    }
    for case, expected in hourly.items():
        one_case = getattr(found, case)
        hours = sum(one_case.seconds.values()) / 3600
        assert one_case.usd["EC2"] == pytest.approx(hours * expected, rel=0.001)
    assert found.low.instance_hours < found.expected.instance_hours < found.high.instance_hours


def test_low_is_below_expected_is_below_high_in_every_shape(repo: Path, price_list: Prices) -> None:
    for name in shapes.shape_names(repo):
        found = estimate.estimate(Work(FRUITS), name, shapes.load_shape(repo, name), price_list)
        assert found.low.total_usd < found.expected.total_usd < found.high.total_usd
        assert found.low.total_seconds < found.expected.total_seconds < found.high.total_seconds


def test_the_high_case_waits_for_spot_as_long_as_the_shape_does(
    standard: Shape, small: Shape, price_list: Prices
) -> None:
    spec = standard.instance_fleets[-1]["LaunchSpecifications"]["SpotSpecification"]
    waited = 60 * spec["TimeoutDurationMinutes"]
    with_spot = estimate.estimate(Work(1000), "s", standard, price_list).high.seconds["cluster start"]
    without = estimate.estimate(Work(1000), "s", small, price_list).high.seconds["cluster start"]
    assert with_spot - without == waited


def test_images_that_stay_where_they_are_cost_a_request_each(small: Shape, price_list: Prices) -> None:
    packed = estimate.estimate(Work(1_000_000), "s", small, price_list).expected
    listed = estimate.estimate(Work(1_000_000, packed=False), "s", small, price_list).expected
    assert listed.usd["S3 requests"] - packed.usd["S3 requests"] == pytest.approx(
        1000 * price_list.s3_get_1000.usd, abs=0.001
    )


def test_storage_is_that_of_sample_and_features(small: Shape, price_list: Prices) -> None:
    found = estimate.estimate(Work(1_000_000, image_bytes=100_000), "s", small, price_list)
    gigabytes = 100 + 1e6 * 1280 * 4 / 1e9
    assert found.storage_usd_month == pytest.approx(gigabytes * price_list.s3_gb_month.usd, rel=0.02)


def test_an_instance_type_without_a_price_is_refused(standard: Shape, price_list: Prices) -> None:
    shape = fleets(standard, InstanceTypeConfigs=[{"InstanceType": "m5x.xlarge"}])
    with pytest.raises(JobError, match=r"instance type m5x\.xlarge has no price in eu-west-3"):
        estimate.estimate(Work(1), "s", shape, price_list)


def test_a_cluster_has_as_many_instances_as_its_smallest_types_make(standard: Shape, small: Shape) -> None:
    kinds = [{"InstanceType": "m5.xlarge"}, {"InstanceType": "m5.2xlarge", "WeightedCapacity": 2}]
    shape = fleets(standard, InstanceTypeConfigs=kinds, TargetSpotCapacity=5)
    assert estimate.most_instances(shape) == 1 + 2 + 5
    assert estimate.most_instances(small) == 3


# Budget and limits


def test_a_run_within_its_budget_passes(of_fruits: CostEstimate) -> None:
    estimate.check_budget(of_fruits, of_fruits.high.total_usd)


def test_a_run_whose_high_case_is_above_its_budget_is_refused_with_figures_and_advice(
    of_fruits: CostEstimate,
) -> None:
    with pytest.raises(JobError) as caught:
        estimate.check_budget(of_fruits, 0.25)
    text = str(caught.value)
    assert text.startswith(
        f"too expensive: 67,692 images on standard cost {of_fruits.expected.total_usd:.2f} USD in "
    )
    assert f"{of_fruits.high.total_usd:.2f} USD in " in text
    assert "above max_cost_usd 0.25. Draw fewer images, take precision int8" in text
    assert text.endswith("nothing was started")


def test_a_stage_may_take_three_times_its_estimate_and_a_quarter_of_an_hour(of_fruits: CostEstimate) -> None:
    expected, limits = of_fruits.expected.seconds, estimate.limits(of_fruits)
    assert limits["extraction"] == round(3 * expected["extract features"] + 900)
    assert limits["reduction"] == round(3 * expected["reduce with PCA"] + 900)


def test_the_start_may_take_as_long_as_spot_is_tried_for(standard: Shape, price_list: Prices) -> None:
    spec = {"TimeoutDurationMinutes": 600, "TimeoutAction": "SWITCH_TO_ON_DEMAND"}
    shape = fleets(standard, LaunchSpecifications={"SpotSpecification": spec})
    patient = estimate.limits(estimate.estimate(Work(1000), "s", shape, price_list))["start"]
    usual = estimate.limits(estimate.estimate(Work(1000), "s", standard, price_list))["start"]
    assert patient > 600 * 60 > usual > 900


def test_an_estimate_survives_xcom_and_is_shown_whole(of_fruits: CostEstimate) -> None:
    plain = asdict(of_fruits)
    assert json.loads(json.dumps(plain)) == plain
    text = estimate.table(of_fruits)
    for words in (*estimate.STAGES, *estimate.PARTS, "instance-hours", "low", "expected", "high", "a month"):
        assert words in text
    assert f"{of_fruits.expected.total_usd:.2f} USD" in text


# Actual cost


def cost_of(clusters: LocalAws, cluster_id: str, price_list: Prices) -> ActualCost:
    return actual.actual_cost(clusters.emr, cluster_id, price_list, ebs_gb=32)


def test_an_ended_cluster_has_cost_its_instances_by_their_times(
    clusters: LocalAws, price_list: Prices
) -> None:
    cluster_id = clusters.run(name="ended")  # three m5.xlarge
    clusters.emr.terminate_job_flows(JobFlowIds=[cluster_id])
    eventually(lambda: clusters.state(cluster_id) == "TERMINATED")
    cost = cost_of(clusters, cluster_id, price_list)
    # Seconds in truth; a minute each is billed at least.
    assert cost.seconds >= 0
    hours = 3 * max(cost.seconds, 60) / 3600
    assert cost.instance_hours == pytest.approx(hours, abs=0.001)
    assert cost.usd["EC2"] == pytest.approx(hours * 0.224, abs=0.0001)
    assert cost.usd["EMR"] == pytest.approx(hours * 0.048, abs=0.0001)
    assert cost.total_usd == pytest.approx(sum(cost.usd.values()), abs=0.0002)
    assert cost.ended is True
    assert cost.unpriced == []
    assert json.loads(json.dumps(asdict(cost))) == asdict(cost)


def test_a_living_cluster_costs_up_to_now(clusters: LocalAws, price_list: Prices) -> None:
    cost = cost_of(clusters, clusters.run(name="alive"), price_list)
    assert cost.ended is False
    assert cost.total_usd > 0


def test_spot_instances_cost_what_spot_costs(clusters: LocalAws, price_list: Prices) -> None:
    group = {"InstanceType": "m5.xlarge", "InstanceCount": 1}
    groups = [{**group, "InstanceRole": "MASTER"}, {**group, "InstanceRole": "CORE", "Market": "SPOT"}]
    cluster_id = clusters.run(name="spot", Instances={"InstanceGroups": groups})
    cost = cost_of(clusters, cluster_id, price_list)
    assert cost.usd["EC2"] == pytest.approx((0.224 + 0.063) / 60, abs=0.0001)


def test_an_instance_without_a_price_is_named_and_counts_nothing(
    clusters: LocalAws, price_list: Prices
) -> None:
    cluster_id = clusters.run(name="unpriced")
    cost = cost_of(clusters, cluster_id, replace(price_list, instances={}))
    assert (cost.unpriced, cost.total_usd) == (["m5.xlarge"], 0)


# The command, and what the README says that it printed


def test_the_command_prints_the_table_that_the_code_makes(of_fruits: CostEstimate) -> None:
    done = run_cli("estimate", "--images", str(FRUITS), "--shape", "standard")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == estimate.table(of_fruits)


def test_the_command_prints_json_for_machines(of_fruits: CostEstimate) -> None:
    done = run_cli("estimate", "--images", str(FRUITS), "--shape", "standard", "--json")
    assert json.loads(done.stdout) == asdict(of_fruits)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "huge"], "error: unknown cluster shape 'huge'"),
        (["--region", "eu-nowhere-1"], "error: no prices of eu-nowhere-1"),
        (["--alpha", "0"], "error: alpha must be above 0"),
    ],
)
def test_the_command_refuses_in_one_line(words: list[str], message: str) -> None:
    done = run_cli("estimate", "--images", "10", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(message)


@pytest.mark.parametrize("name", ["standard", "graviton"])
def test_the_readmes_estimate_is_what_the_code_prints(repo: Path, price_list: Prices, name: str) -> None:
    found = estimate.estimate(Work(FRUITS), name, shapes.load_shape(repo, name), price_list)
    rows = re.findall(rf"^\| `{name}` \| (.+) \|$", (repo / "README.md").read_text(), re.MULTILINE)
    cases = (found.low, found.expected, found.high)
    minutes = " / ".join(f"{case.total_seconds / 60:.1f}" for case in cases)
    usd = " / ".join(f"{case.total_usd:.2f}" for case in cases)
    assert f"{minutes} | {usd}" in rows


def test_the_constants_are_sane() -> None:
    assert set(measured.START_SECONDS) == set(measured.SPEED_FACTORS) == {"low", "expected", "high"}
    assert all(math.isfinite(speed) and 0 < speed <= 1 for speed in measured.VCPU_SPEEDS.values())
