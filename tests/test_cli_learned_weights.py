"""`headstart ensemble` with weights and a scale that held-out rows choose."""

from pathlib import Path

import pytest

from headstart.backbones import Backbone
from program import Run, assert_mistake
from small_hub import write_hub, write_task

pytest_plugins = ["cli_helper"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llama: Backbone) -> Path:
    """A folder with "hub" (ada, bob, cyd, dan) and "task"."""
    folder = tmp_path_factory.mktemp("learned")
    write_hub(folder / "hub", llama)
    write_task(folder / "task")
    return folder


def test_on_the_command_line(run: Run, folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    common = [str(folder / "task"), "--hub", str(folder / "hub"), "-b", str(tiny_llama)]
    learned = ["--rule", "gradient", "--groups", "2", "--space", "core", "--scale", "held_out", "--split", "dev"]
    done = run("ensemble", *common, *learned, "-o", str(tmp_path / "one"), "--json").data
    assert (done["rule"], done["indicator"], done["space"]) == ("gradient", None, "core")
    assert done["scale"] in (0.5, 0.75, 1, 1.5, 2, 3)
    assert set(done["units"]["computed"]) == {"learn", "weigh", "merge"}
    again = run("ensemble", *common, *learned, "-o", str(tmp_path / "two")).out
    assert "chosen on held-out loss" in again
    signed = ["--rule", "gradient", "--signed", "--l1", "0.1", "--scale", "2", "-i", "loss"]
    text = run("ensemble", *common, *signed, "-o", str(tmp_path / "three")).out
    assert "scale 2" in text
    assert_mistake(
        run("ensemble", *common, "--rule", "gradient", "--l1", "0.1", "-o", str(tmp_path / "four")),
        "l1 0.1 does nothing for weights that sum to 1; leave it out, or give signed too",
    )
