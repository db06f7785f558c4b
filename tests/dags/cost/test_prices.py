"""Every price has a source, a file at fault is named, and a renewal reads what AWS documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import pytest
from botocore.stub import Stubber

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster import shapes
from fruit_pipeline.cost import price_list as cost_price_list
from fruit_pipeline.cost import prices
from image_features.errors import JobError
from support.cli import run_cli
from support.local_aws import REGION, LocalAws

FILES = sorted((Path(__file__).resolve().parents[3] / "emr_configs" / "prices").glob("*.json"))


# The files that are there


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_prices_is_whole_and_as_a_renewal_would_write_it(path: Path, tmp_path: Path) -> None:
    found = prices.load(path.parents[2], path.stem)
    assert found.instances
    cost_price_list.write(tmp_path / path.name, found)
    assert (tmp_path / path.name).read_text() == path.read_text()


def test_every_instance_type_of_every_shape_has_a_price_in_the_default_region(repo: Path) -> None:
    found = prices.load(repo, REGION)
    for name in shapes.shape_names(repo):
        for nodes in shapes.load_shape(repo, name).nodes:
            assert [found.of(kind).emr.usd for kind in nodes.weights]


def test_no_instance_costs_more_as_spot_and_no_fee_of_emr_is_above_half_of_ec2s_price(repo: Path) -> None:
    found = prices.load(repo, REGION)
    for price in found.instances.values():
        assert price.market("SPOT") <= price.market("ON_DEMAND") == price.ec2.usd
        assert price.emr.usd < price.ec2.usd / 2


def test_without_a_spot_price_the_one_on_demand_stands_for_it() -> None:
    price = prices.InstancePrice(prices.Figure(0.2, "a"), prices.Figure(0.05, "a"))
    assert price.market("SPOT") == 0.2


def test_the_prices_are_as_old_as_their_oldest_source(repo: Path) -> None:
    found = prices.load(repo, REGION)
    assert found.date == min(source.date for source in found.sources.values())


# A file at fault


@pytest.fixture
def home(repo: Path, tmp_path: Path) -> Path:
    shutil.copytree(repo / "emr_configs", tmp_path / "emr_configs")
    return tmp_path


Values = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("sources"), "sources: Field required"),
        (lambda v: v.update(region="eu-west-1"), "region is 'eu-west-1'; expected 'eu-west-3'"),
        (lambda v: v.update(instances={}), "instances is {}: Dictionary should have at least 1 item"),
        (lambda v: v["sources"]["tables"].update(date="last week"), "sources.tables.date is 'last week'"),
        (
            lambda v: v["sources"]["tables"].update(text=" "),
            "sources.tables.text is ' ': String should have at least 1 character",
        ),
        (
            lambda v: v["instances"]["m5.xlarge"].pop("emr"),
            "instances.m5.xlarge.emr: Field required",
        ),
        (
            lambda v: v["instances"]["m5.xlarge"]["ec2"].update(usd=0),
            "instances.m5.xlarge.ec2.usd is 0: Input should be greater than 0",
        ),
        (
            lambda v: v["instances"]["m5.xlarge"]["ec2"].update(usd="0.2"),
            "ec2.usd is '0.2': Input should be a valid number",
        ),
        (
            lambda v: v["gp3_gb_month"].update(usd=True),
            "gp3_gb_month.usd is True: Input should be a valid number",
        ),
        (
            lambda v: v["s3_get_1000"].update(source="me"),
            "s3_get_1000.source is 'me'; expected one of tables",
        ),
    ],
)
def test_a_file_at_fault_is_refused_by_name_and_field(
    home: Path, change: Callable[[Values], Any], message: str
) -> None:
    path = prices.path_of(home, REGION)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(JobError) as caught:
        prices.load(home, REGION)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_no_json_and_one_that_is_missing(home: Path) -> None:
    prices.path_of(home, REGION).write_text("{")
    with pytest.raises(JobError, match=r"eu-west-3\.json: the file: Invalid JSON"):
        prices.load(home, REGION)
    with pytest.raises(JobError, match=r"no prices of eu-north-1: .*--region eu-north-1 --refresh"):
        prices.load(home, "eu-north-1")


@pytest.mark.parametrize(
    ("name", "near"), [("m5.xlrage", "m5.xlarge"), ("r6g.large", "r6g.xlarge"), ("m6i.2xlarge", "m6i.xlarge")]
)
def test_an_unknown_instance_type_is_refused_with_the_closest_names(repo: Path, name: str, near: str) -> None:
    with pytest.raises(
        JobError, match=f"instance type {name} has no price in eu-west-3; there are "
    ) as caught:
        prices.load(repo, REGION).of(name)
    assert near in str(caught.value)
    assert f"--refresh --types {name}" in str(caught.value)


# Refresh. The local AWS has no Price List: the tests make its answers, in the form that AWS documents.


def documented() -> dict[str, Any]:
    """The product of botocore's own example of GetProducts."""
    examples = botocore.loaders.Loader().load_service_model("pricing", "examples-1")
    (text,) = examples["examples"]["GetProducts"][0]["output"]["PriceList"]
    return json.loads(text)


def product(usagetype: str, *prices_by_begin: tuple[str, float], **attributes: str) -> str:
    """A product as documented; ``prices_by_begin``: each tier's first unit and price."""
    made = documented()
    made["product"]["attributes"].update(usagetype=usagetype, **attributes)
    (term,) = made["terms"]["OnDemand"].values()
    (dimension,) = term["priceDimensions"].values()
    term["priceDimensions"] = {
        f"tier-{begin}": {**dimension, "beginRange": begin, "pricePerUnit": {"USD": f"{price:.10f}"}}
        for begin, price in prices_by_begin
    }
    return json.dumps(made)


EC2_FILTERS = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}
EMR_FILTERS = {"productFamily": "Elastic Map Reduce Instance", "softwareType": "EMR"}
REQUESTS = {"productFamily": "API Request"}


def question(service: str, **filters: str) -> dict[str, Any]:
    wanted = {"regionCode": REGION, **filters}
    return {
        "ServiceCode": service,
        "Filters": [
            {"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()
        ],
    }


def price_list(*types: str, missing: str = "") -> tuple[Any, Stubber]:
    """A client of the Price List with prepared answers, in the order of the requests."""
    client = boto3.Session("test", "test").client("pricing", region_name=cost_price_list.PRICE_LIST_REGION)
    stub = Stubber(client)

    def answer(expected: dict[str, Any], *products: str) -> None:
        stub.add_response("get_products", {"PriceList": list(products)}, expected)

    for name in types:
        answer(
            question("AmazonEC2", instanceType=name, **EC2_FILTERS),
            product(f"EUW3-BoxUsage:{name}", ("0", 0.25)),
            product(f"EUW3-UnusedBox:{name}", ("0", 9.0)),  # of a capacity reservation
            product(f"EUW3-BoxUsage:{name}", ("0", 0.0)),  # reserved: nothing an hour
        )
    for name in types:
        found = [] if name == missing else [product(f"EUW3-BoxUsage:{name}", ("0", 0.05))]
        answer(question("ElasticMapReduce", instanceType=name, **EMR_FILTERS), *found)
    if missing:
        return client, stub
    answer(
        question("AmazonEC2", productFamily="Storage", volumeApiName="gp3"),
        product("EUW3-EBS:VolumeUsage.gp3", ("0", 0.0928)),
    )
    answer(
        question("AmazonS3", **REQUESTS),
        product("EUW3-Requests-Tier1", ("0", 0.0000053)),
        product("EUW3-Requests-INT-Tier1", ("0", 0.1)),  # Intelligent-Tiering
    )
    answer(question("AmazonS3", **REQUESTS), product("EUW3-Requests-Tier2", ("0", 0.00000042)))
    answer(
        question("AmazonS3", productFamily="Storage", volumeType="Standard"),
        product("EUW3-TimedStorage-ByteHrs", ("0", 0.024), ("51200", 0.023), ("512000", 0.022)),
    )
    return client, stub


def spot_history(*entries: tuple[str, str, str, str]) -> tuple[Any, Stubber]:
    """A client of EC2 with these entries: type, zone, price, day."""
    client = boto3.Session("test", "test").client("ec2", region_name=REGION)
    stub = Stubber(client)
    history = [
        {
            "InstanceType": kind,
            "AvailabilityZone": zone,
            "SpotPrice": price,
            "Timestamp": datetime.fromisoformat(day),
            "ProductDescription": "Linux/UNIX",
        }
        for kind, zone, price, day in entries
    ]
    stub.add_response("describe_spot_price_history", {"SpotPriceHistory": history})
    return client, stub


def test_the_documented_example_of_the_price_list_is_read() -> None:
    assert cost_price_list.first_unit_price([documented()]) == 0.138


def test_prices_are_fetched_from_the_price_list_and_the_spot_history() -> None:
    pricing, asked = price_list("m5.xlarge", "m6g.xlarge")
    ec2, history = spot_history(
        ("m5.xlarge", "eu-west-3a", "0.08", "2026-11-19"),
        ("m5.xlarge", "eu-west-3a", "0.06", "2026-11-20"),  # the zone's newest counts
        ("m5.xlarge", "eu-west-3b", "0.07", "2026-11-20"),
        ("t3.micro", "eu-west-3b", "0.01", "2026-11-20"),  # not requested
    )
    before = datetime.now(UTC).date().isoformat()
    with asked, history:
        found = cost_price_list.fetch(REGION, ["m6g.xlarge", "m5.xlarge", "m5.xlarge"], pricing, ec2)
        asked.assert_no_pending_responses()
    assert set(found.instances) == {"m5.xlarge", "m6g.xlarge"}
    m5 = found.of("m5.xlarge")
    assert (m5.ec2.usd, m5.emr.usd, m5.market("SPOT")) == (0.25, 0.05, pytest.approx(0.065))
    assert found.of("m6g.xlarge").spot is None
    assert (found.gp3_gb_month.usd, found.s3_gb_month.usd) == (0.0928, 0.024)
    assert (found.s3_put_1000.usd, found.s3_get_1000.usd) == (0.0053, 0.00042)
    (day,) = {source.date for source in found.sources.values()}
    assert before <= day <= datetime.now(UTC).date().isoformat()


def test_a_type_that_the_region_or_emr_does_not_offer_is_named_and_nothing_is_written() -> None:
    pricing, asked = price_list("m5.xlarge", "t2.nano", missing="t2.nano")
    ec2, _ = spot_history()
    with asked, pytest.raises(JobError, match=r"no EC2 or EMR price of t2\.nano in eu-west-3"):
        cost_price_list.fetch(REGION, ["m5.xlarge", "t2.nano"], pricing, ec2)


class Account(Aws):
    """The local AWS with a Price List, which it does not have."""

    pricing: Any = None

    def client(self, service: str, region: str | None = None, **config: Any) -> Any:
        if service == "pricing":
            assert region == cost_price_list.PRICE_LIST_REGION
            return self.pricing
        return super().client(service, region, **config)


@pytest.fixture
def account(local_aws: LocalAws) -> Account:
    return Account(boto3.Session("test", "test", region_name=REGION), REGION, local_aws.endpoint)


def test_a_renewal_asks_for_the_types_of_file_shapes_and_command_and_replaces_the_file(
    home: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prices.path_of(home, REGION)
    wanted = cost_price_list.wanted_types(home, REGION, ["c7g.xlarge"])
    assert {"c7g.xlarge", "m5.2xlarge", "r7g.xlarge"} <= wanted  # m5.2xlarge is only in the file
    pricing, asked = price_list(*sorted(wanted))
    monkeypatch.setattr(Account, "pricing", pricing)
    with asked:
        found = cost_price_list.refresh(home, REGION, account, ["c7g.xlarge"])
    assert prices.load(home, REGION) == found
    assert set(found.instances) == wanted
    assert set(found.sources) == {"price-list", "spot"}
    assert found.of("m5.xlarge").spot is not None, "the local AWS has Spot prices"
    assert oct(path.stat().st_mode & 0o777) == "0o644"
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_a_renewal_of_a_new_region_takes_the_types_of_the_shapes(home: Path) -> None:
    types = {
        kind
        for name in shapes.shape_names(home)
        for nodes in shapes.load_shape(home, name).nodes
        for kind in nodes.weights
    }
    assert cost_price_list.wanted_types(home, "eu-north-1") == types


def test_a_renewal_that_is_denied_keeps_the_file_and_names_the_permission(
    home: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.Session("test", "test").client("pricing", region_name=cost_price_list.PRICE_LIST_REGION)
    monkeypatch.setattr(Account, "pricing", client)
    before = prices.path_of(home, REGION).read_bytes()
    with Stubber(client) as stub:
        stub.add_client_error("get_products", "AccessDeniedException", "no", 400)
        with pytest.raises(JobError, match="GetProducts is denied; grant pricing:GetProducts"):
            cost_price_list.refresh(home, REGION, account)
    assert prices.path_of(home, REGION).read_bytes() == before


# The command


def test_the_command_prints_every_price_with_its_sources(repo: Path) -> None:
    done = run_cli("prices", "--region", REGION)
    assert done.returncode == 0, done.stderr
    found = prices.load(repo, REGION)
    for name, price in found.instances.items():
        (line,) = (line for line in done.stdout.splitlines() if line.split()[0] == name)
        assert [f"{price.ec2.usd:.4f}", f"{price.emr.usd:.4f}"] == [line.split()[1], line.split()[3]]
    assert all(source.text in done.stdout for source in found.sources.values())


def test_the_command_prints_json_for_machines(repo: Path) -> None:
    done = run_cli("prices", "--region", REGION, "--json")
    assert json.loads(done.stdout) == json.loads(prices.path_of(repo, REGION).read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--region", "eu-nowhere-1"], "error: no prices of eu-nowhere-1: "),
        (["--types", "m5.xlarge"], "error: --types goes with --refresh"),
    ],
)
def test_the_command_refuses_in_one_line(words: list[str], message: str) -> None:
    done = run_cli("prices", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
