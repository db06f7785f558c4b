"""Fixtures that all tests share: the repository, images, an exported backbone, a local AWS."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.model.backbones import BackboneRequest
from fruit_pipeline.model.export import export
from fruit_pipeline.sample.drawn_images import draw_folder
from image_features.storage import local_path
from support.airflow import use_own_home
from support.instant_aws import InstantAws
from support.local_aws import REGION

REPO = Path(__file__).resolve().parents[1]

# Exported models and wheels are kept between test runs, as they are between pipeline runs.
os.environ.setdefault("FRUITS_CACHE_DIR", str(REPO / ".cache"))
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(REPO / ".cache" / "hypothesis"))
# Every boto3 session reads AWS's models from disk, some 0.3 s of CPU: here, all share one loader's cache.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)
use_own_home(REPO / "dags")  # before a test imports Airflow


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and weights, beside the project or where FRUITS_TEST_DATA says."""
    folder = Path(os.environ.get("FRUITS_TEST_DATA") or REPO.parent / "shared" / "data")
    if not (folder / "fruits").is_dir():
        pytest.skip(f"no real data in {folder}; set FRUITS_TEST_DATA to a folder with fruits/ and weights/")
    return folder


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve labels with four drawn images each."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_folder(folder, per_label=4)
    return folder


@pytest.fixture(scope="session")
def random_backbone() -> Path:
    """Folder of a small exported backbone with random weights."""
    request = BackboneRequest("mobilenet_v2", 0.35, "random:0")
    _, cached = export(request, Path(os.environ["FRUITS_CACHE_DIR"]))
    return local_path(cached.uri)


@pytest.fixture(scope="session")
def local_aws() -> Iterator[InstantAws]:
    """A local AWS in this process, with a bucket and an account as the preflight requires them."""
    with InstantAws() as aws:
        aws.set_up_account()
        yield aws


@pytest.fixture(scope="session")
def aws(local_aws: InstantAws) -> Aws:
    """The pipeline's own view of the local AWS; a session of boto3 parses the services' models once."""
    return Aws(boto3.Session("test", "test", region_name=REGION), REGION, local_aws.endpoint)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; tests are skipped where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic", "--disable-sync"]
    arguments += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=arguments, timeout=300_000)
        yield opened
        opened.close()
