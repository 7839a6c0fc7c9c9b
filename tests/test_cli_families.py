"""`headstart list`: everything that can be named, plug-ins too, without torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headstart import registry
from headstart.blending import RULES
from headstart.cli.families import FAMILIES, described
from headstart.indicators import INDICATORS
from headstart.kinds.settings import SETTINGS
from program import Run, assert_mistake

pytest_plugins = ["cli_helper"]


def plugin(folder: Path, name: str, entry_points: str, code: str) -> None:
    """An installed distribution `name` with those entry points, and a module `name` of that code."""
    info = folder / f"{name}-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    (folder / f"{name}.py").write_text(code)


def test_everything_is_listed_without_torch_and_a_plugin_beside_ours(tmp_path: Path) -> None:
    points = "[headstart.kinds]\nzebra = zebra_plugin:Zebra\n[headstart.rules]\nbad = zebra_plugin:Missing\n"
    plugin(tmp_path, "zebra_plugin", points, "raise RuntimeError('imported')")
    code = (
        "import sys, headstart.cli\nsys.argv = ['headstart', 'list', '--json']\n"
        "try:\n    headstart.cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'pandas', 'zebra_plugin'} & sys.modules.keys()"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == list(FAMILIES)
    assert [row["name"] for row in found["kinds"]] == [*SETTINGS, "zebra"]
    assert found["kinds"][-1] == {"name": "zebra", "from": "zebra_plugin 2.0", "what it is": "", "problem": None}
    assert [row["name"] for row in found["rules"]] == [*RULES, "bad"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Installs a plug-in for the time of the test: its name, its entry points, its code."""
    monkeypatch.syspath_prepend(tmp_path)
    for family in FAMILIES.values():
        monkeypatch.setattr(family, "_broken", {})

    def forget() -> None:
        registry._installed.cache_clear()
        for family in FAMILIES.values():
            vars(family).pop("_plugins", None)

    def install(name: str, entry_points: str, code: str) -> None:
        plugin(tmp_path, name, entry_points, code)
        forget()

    yield install
    forget()


def test_a_broken_plugin_is_found_by_loading_all(run: Run, installed: Callable[[str, str, str], None]) -> None:
    installed("lame_plugin", "[headstart.metrics]\nBLEU = lame_plugin:BLEU\n", "raise RuntimeError('no luck')")
    quick, whole = run("list", "metrics"), run("list", "metrics", "--check")
    assert (quick.code, "BLEU" in quick.out, quick.err) == (0, True, "")
    assert whole.code == 1
    assert whole.err == (
        "broken: metric 'BLEU' of the plug-in lame_plugin 2.0 cannot be loaded from lame_plugin:BLEU "
        "(RuntimeError: no luck); repair, upgrade or uninstall that package\n"
    )


def test_a_plugin_that_ends_the_program_is_found(run: Run, installed: Callable[[str, str, str], None]) -> None:
    installed("exit_plugin", "[headstart.metrics]\nBLEU = exit_plugin:BLEU\n", "raise SystemExit(3)")
    whole = run("list", "metrics", "--check")
    assert whole.code == 1
    assert "broken: metric 'BLEU' of the plug-in exit_plugin 2.0 cannot be loaded" in whole.err
    assert "Rouge-L" in whole.out


WRONG = {
    "kinds": "a class derived from headstart.kinds.Module",
    "indicators": "a class derived from headstart.indicators.Indicator",
    "embeddings": "a class derived from headstart.embeddings.Embedding",
    "rules": "an instance of headstart.blending.Rule",
    "spaces": "an instance of headstart.blending.Space",
    "methods": "an instance of headstart.comparing.methods.contract.Method",
    "metrics": "an instance of headstart.tasks.metrics.Metric",
    "recipes": "an instance of headstart.tuning.recipes.Recipe",
    "optimizers": "an instance of headstart.tuning.optimizers.Optimizer",
    "architectures": "an instance of headstart.architectures.Architecture",
    "formats": "an instance of collections.abc.Callable",
    "folders": "an instance of headstart.formats.FolderReader",
    "engines": "a class derived from headstart.units.engines.Engine",
}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_plugin_of_the_wrong_type_is_named(family: str, run: Run, installed: Callable[[str, str, str], None]) -> None:
    installed("odd_plugin", f"[{FAMILIES[family].group}]\nweird = odd_plugin:WEIRD\n", "WEIRD = 'nothing of use'")
    said = (
        f"'weird' of the plug-in odd_plugin 2.0 cannot be used: its entry point weird = odd_plugin:WEIRD must lead to "
        f"{WRONG[family]}, and leads to a value of type str; correct the entry point, or uninstall that package"
    )
    assert_mistake(run("list", family, "weird"), said)
    sys.modules.pop("odd_plugin", None)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_ours_are_of_the_type_that_is_asked_of_plugins(family: str) -> None:
    for name in FAMILIES[family]:
        assert FAMILIES[family]._mismatch(FAMILIES[family][name]) is None


def test_one_family_and_one_member(run: Run) -> None:
    rows = {row["name"]: row for row in run("list", "spaces", "--json").data["spaces"]}
    assert rows["exact"]["from"] == "headstart"
    assert "laying" in rows["exact"]["what it is"] or rows["exact"]["what it is"]
    shown = run("list", "kinds", "lora", "--json").data
    assert shown["what it is"].startswith("A LoRA module")
    assert [(row["setting"], row["default"]) for row in shown["settings"]] == [
        ("rank", "8"), ("alpha", "16.0"), ("targets", "its own"),
    ]  # fmt: skip
    table = run("list", "recipes", "quick").out
    assert "rank=8,alpha=16.0" in table
    assert "max_steps" in table
    rows = {row["setting"]: row["default"] for row in run("list", "recipes", "quick", "--json").data["settings"]}
    assert rows["settings"] == "rank=8,alpha=16.0,targets=its own"


def test_a_member_is_described_by_a_whole_sentence(run: Run) -> None:
    rules = {row["name"]: row["what it is"] for row in run("list", "rules", "--json").data["rules"]}
    assert rules["held_out"].endswith("and n itself (equal weights)"), rules["held_out"]
    assert not any(text.endswith((" from", " stopped", " effective numbers")) for text in rules.values())


def test_types_are_told_in_words(run: Run) -> None:
    def types(family: str, name: str) -> dict[str, str]:
        return {row["setting"]: row["type"] for row in run("list", family, name, "--json").data["settings"]}

    assert types("indicators", "grand") == {
        "stack": "encoder or decoder", "block": "int", "sublayer": "attention, cross_attention or feed_forward",
    }  # fmt: skip
    assert types("kinds", "lora") == {"rank": "int", "alpha": "float", "targets": "str, several separated by commas"}
    assert types("kinds", "adapter")["biases"] == "bool"


def test_mistakes(run: Run) -> None:
    assert_mistake(
        run("list", "kind"), "unknown family 'kind'; choose one of: kinds, indicators", "did you mean 'kinds'"
    )
    assert_mistake(run("list", "kinds", "lara"), "unknown kind 'lara'", "did you mean 'lora'")


def test_help_names_what_is_registered(run: Run) -> None:
    said = " ".join(run("rank", "--help").out.split())
    *others, last = INDICATORS
    assert f"{', '.join(others)} or {last}" in said
    assert "few-shot, full, tupate or quick" in said


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_reference_leads_to_something_described(family: str) -> None:
    for member in FAMILIES[family].declared():
        if member.reference:
            assert FAMILIES[family][member.name] is not None
            assert described(member.reference), member
