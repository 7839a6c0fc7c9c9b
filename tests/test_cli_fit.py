"""`headstart fit` as a user runs it."""

from pathlib import Path

import pytest

from headstart.fitting.record import FitRecord
from headstart.hub import Hub
from headstart.kinds import load_module
from headstart.kinds.lora import LoraModule
from program import QUICK, Run, assert_mistake

pytest_plugins = ["cli_helper"]


def test_fit_saves_a_module_with_its_page_and_a_second_run_reads_the_store(
    run: Run, room: Path, here: dict[str, list[str]], tmp_path: Path
) -> None:
    shared = [*here["task"], *here["hub"], *here["on"]]
    words = ["fit", *shared, *QUICK, "--folds", "2", "--store", str(tmp_path / "store")]
    dry = run(*words, "-o", tmp_path / "module", "--dry-run")
    assert "This was a dry run: nothing was computed or written." in dry.out
    assert dry.out.strip().endswith("To make it shorter: fewer starts (--start ensemble).")
    assert not (tmp_path / "module").exists()
    made = run(*words, "-o", tmp_path / "module", "--license", "mit", "--json")
    assert made.data["fit"]["choice"] in ("use", "abstain")
    assert made.data["units"]["computed"]["tune"] > 2
    assert made.data["units"]["reused"] == {}
    saved = load_module(tmp_path / "module")
    assert (saved.card.name, saved.card.task) == ("module", "reviews")
    page = (tmp_path / "module" / "report.html").read_text(encoding="utf-8")
    assert "What the guard found" in page
    assert "headstart fit" in page
    again = run(*words, "-o", tmp_path / "again")
    assert again.out.startswith("On reviews: ")
    assert f"Module: {tmp_path / 'again'}   Page: {tmp_path / 'again' / 'report.html'}" in again.out
    assert f"headstart predict {tmp_path / 'again'} new-rows.csv" in again.out
    (tmp_path / "new-rows.csv").write_text("input\nthe song is warm\n")
    answered = run("predict", tmp_path / "again", tmp_path / "new-rows.csv")
    assert answered.out.startswith("input,label,probability\nthe song is warm,"), "on the backbone that it knows itself"
    assert "Reused " in again.err
    assert made.data["fit"]["sentence"] in " ".join(again.out.split())
    added = run("hub", "add", tmp_path / "hub", tmp_path / "module", "--json")
    assert added.data[0]["result"] == "accepted"


def test_fit_refuses_before_any_work(run: Run, room: Path, here: dict[str, list[str]], tmp_path: Path) -> None:
    words = ["fit", *here["task"], *here["hub"], *here["on"], *QUICK, "-o", tmp_path / "module"]
    assert_mistake(run(*words, "--start", "averge"), "unknown method 'averge'", "did you mean 'average'?")
    assert_mistake(run(*words, "--folds", "1"), "folds 1 must be at least 2")
    assert_mistake(run(*words, "--folds", "30"), "too few to hold out one part in 30; add rows")
    (tmp_path / "module").mkdir()
    assert_mistake(run(*words), "already exists")


def test_fit_takes_rules_and_scales_that_are_chosen_on_held_out_rows(
    run: Run, room: Path, here: dict[str, list[str]], tmp_path: Path
) -> None:
    words = ["fit", *here["task"], *here["hub"], *here["on"], *QUICK, "--folds", "2", "--start", "ensemble"]
    words += ["--store", str(tmp_path / "store")]
    made = run(*words, "--rule", "gradient", "-o", tmp_path / "learned", "--json")
    assert made.data["fit"]["settings"]["blend"] == {"rule": "gradient"}
    assert made.data["units"]["computed"]["learn"] == 3, "two folds, and all rows"
    scaled = run(*words, "--scale", "held_out", "-o", tmp_path / "scaled", "--json")
    assert scaled.data["fit"]["settings"]["blend"] == {"rule": "softmax", "scale": "held_out"}
    assert "chosen on held-out loss" in str(scaled.data["fit"]["notes"])


def test_a_variant_that_takes_no_part_is_named(
    run: Run, room: Path, here: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [ref.name for ref in Hub.open(here["hub"][1]).refs()]
    alone = classmethod(lambda cls, card: "a LoRA variant" if card.name == names[0] else None)
    monkeypatch.setattr(LoraModule, "ranked_alone", alone)
    words = ["fit", *here["task"], *here["hub"], *here["on"], *QUICK, "--folds", "2", "--start", "average"]
    reason = "a LoRA variant, which can be ranked but not merged or tuned"
    assert run(*words, "--dry-run").err.count(f"left out {names[0]}: {reason}\n") == 1
    dry = run(*words, "--dry-run", "--json").data
    assert dry["left_out"] == [{"module": names[0], "reason": reason}]
    made = run(*words, "--store", str(tmp_path / "store"), "-o", tmp_path / "module")
    assert f"left out {names[0]}: {reason}" in " ".join(made.out.split())
    record = FitRecord.from_json((tmp_path / "module" / "fit.json").read_text(encoding="utf-8"))
    assert record.frames["refused"].to_dict("records") == [{"module": names[0], "reason": reason}]
    page = (tmp_path / "module" / "report.html").read_text(encoding="utf-8")
    assert f"{len(names) - 1} modules, 1 left out" in page
    assert "headstart predict module new-rows.csv" in page
    assert "recipe.shape" not in page
