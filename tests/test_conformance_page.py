"""The conformance suite's command, and docs/support.md, which is made from a run of it."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from headstart.errors import SettingError
from headstart.kinds import KINDS
from headstart.testing import BACKBONES, MORE_BACKBONES, Outcome, check_kind, conformance, tiny_backbone
from headstart.testing.conformance import FIRST, main, table
from test_conformance import SAVED, checked

# The command and the page


def test_unknown_names_are_the_callers_mistake() -> None:
    with pytest.raises(SettingError, match="unknown kind 'lara'; choose one of: lora, "):
        check_kind("lara")
    with pytest.raises(SettingError, match="unknown tiny backbone 'bloom'; choose one of: llama, gpt2, t5"):
        check_kind("lora", backbones=["bloom"])


def test_tiny_backbones_are_the_same_every_time() -> None:
    one, two, deep = (tiny_backbone("t5", layers=layers) for layers in (2, 2, 4))
    assert one.fingerprint == two.fingerprint
    assert len(deep.model.encoder.block) == len(deep.model.decoder.block) == 4
    assert tiny_backbone("t5", seed=1).fingerprint.weights != one.fingerprint.weights


OUTCOMES = [
    Outcome("lora", "t5", FIRST, "passed"),
    Outcome("lora", "t5", "stack", "failed", "module 0: 1.0e+00 apart"),
    Outcome("bitfit", "t5", FIRST, "refused", "no biases; use lora"),
]


def test_the_table() -> None:
    assert table(OUTCOMES).splitlines() == [
        "kind        backbone      passed  skipped  refused  failed",
        "lora        t5                 1        0        0       1",
        "    stack failed: module 0: 1.0e+00 apart",
        "bitfit      t5                 0        0        1       0",
        "    fresh refused: no biases; use lora",
    ]


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(conformance, "check_kind", lambda kind: [o for o in OUTCOMES if o.kind == kind])
    assert main(["bitfit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "kind": "bitfit", "backbone": "t5", "check": "fresh", "result": "refused", "detail": "no biases; use lora",
    }  # fmt: skip
    assert main([]) == 1
    assert capsys.readouterr().out == table(OUTCOMES) + "\n"


def test_the_command_says_which_kind_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lara"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown kind 'lara'; choose one of: lora, ")


def writer() -> ModuleType:
    path = Path(__file__).parents[1] / "docs" / "write_support.py"
    spec = importlib.util.spec_from_file_location("write_support", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_says_what_is_read_on_every_family(kind: str) -> None:
    """Of the families that the suite is not run in full on here, the checks that the page's table shows."""
    page = writer()
    outcomes = [*checked(kind), *check_kind(kind, backbones=tuple(MORE_BACKBONES), checks=(*page.FORMATS, SAVED))]
    assert [outcome for outcome in outcomes if outcome.result == "failed"] == []
    written = page.PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.support(outcomes).splitlines() if line.startswith(f"| {kind} |")]
    assert len(rows) == len(BACKBONES) + len(MORE_BACKBONES)
    reasons = [line.partition(". ")[2] for line in page.support(outcomes).splitlines() if line[:1].isdecimal()]
    for row in rows:
        assert numberless(row) in numberless(written), "run `python docs/write_support.py`"
    for reason in reasons:
        assert f". {reason}\n" in written, "run `python docs/write_support.py`"


def numberless(text: str) -> str:
    """Without the numbers that lead to reasons, which count over all kinds."""
    return re.sub(r"refused \(\d+\)", "refused", text)


@pytest.mark.slow
def test_the_page_of_support_is_what_the_suite_finds() -> None:
    page = writer()
    assert page.page() == page.PAGE.read_text(encoding="utf-8"), "run `python docs/write_support.py`"
