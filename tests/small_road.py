"""Fixtures of tests that go the whole road on the tiny Llama: a hub and a task, once for each test module."""

from pathlib import Path

import pytest

from headstart.backbones import Backbone
from headstart.hub import Hub
from headstart.tasks import Task
from headstart.units import Store
from small_hub import write_hub, write_task


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test module's own."""
    return tmp_path_factory.mktemp("road")


@pytest.fixture(scope="module")
def hub(road: Path, llama: Backbone) -> Hub:
    return write_hub(road / "hub", llama)


@pytest.fixture(scope="module")
def task(road: Path) -> Task:
    return Task.load(write_task(road / "reviews"))


@pytest.fixture(scope="module")
def store(road: Path) -> Store:
    """What the tests of a module have computed."""
    return Store(road / "store")
