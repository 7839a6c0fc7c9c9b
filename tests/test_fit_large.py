"""`fit` on large hubs: which modules are retrieved, which race, and what that takes."""

from dataclasses import replace
from typing import Any

import pytest

from headstart.backbones import Backbone
from headstart.blending import Blend
from headstart.comparing import trials as ranking_of_draws
from headstart.comparing.methods.parse import parse_methods
from headstart.errors import SettingError
from headstart.events import Event, Note
from headstart.fitting.defaults import DEFAULTS
from headstart.fitting.folds import folds_of
from headstart.fitting.guard import pool_of
from headstart.fitting.large import LargeHub
from headstart.hub import Hub
from headstart.kinds import LoraModule
from headstart.kinds.settings import LoraSettings
from headstart.ranking.race import Race
from headstart.reports.html import fit_page
from headstart.tasks import Task
from headstart.tuning.unit import TuneUnit
from headstart.units import Store, foresee
from small_hub import module
from test_fit import run

pytest_plugins = ["small_road"]


def test_of_a_larger_hub_some_modules_are_retrieved_and_only_these_are_guarded(
    task: Task, hub: Hub, llama: Backbone, store: Store
) -> None:
    found = run(task, hub, llama, store, retrieve=2)
    stages = [standing.stage for standing in found.ranking.standings]
    assert stages.count("retrieved out") == 2
    ranking = found.record.frames["ranking"]
    assert len(ranking) == 4
    assert ranking["weight"].notna().sum() == 2
    assert ranking["weight"].sum() == pytest.approx(1.0)
    assert found.record.settings["retrieved"] == 2
    assert len(found.record.frames["map"]) == 4
    assert "retrieved out" in fit_page(found.record)
    planned = foresee(lambda **more: run(task, hub, llama, store, retrieve=2, **more))
    assert sum(each.compute for each in planned.expected) == 0


def test_each_fold_retrieves_by_a_module_that_is_tuned_on_the_rows_of_the_others(
    task: Task, hub: Hub, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held out has no part in which modules take part."""
    references: list[TuneUnit] = []
    seen = ranking_of_draws.Scoring.plan

    def watched(*args: Any, **how: Any) -> Any:
        scoring = seen(*args, **how)
        references.extend(each for each in [scoring.reference] if isinstance(each, TuneUnit))
        return scoring

    monkeypatch.setattr(ranking_of_draws.Scoring, "plan", watched)
    heard: list[Event] = []
    found = run(task, hub, llama, False, retrieve=2, starts="average", progress=heard.append)
    tuned = {unit.key: unit for unit in references}
    assert len(tuned) == 3  # on all rows, and for two folds
    rows = {row.input for row in (*task.train, *task.dev)}
    folds = folds_of(task, count=2, most=DEFAULTS.held_out, seed=0)
    for fold in folds:
        kept = {row.input for row in fold.train}
        assert any({row.input for row in unit.rows.value.train} == kept for unit in tuned.values())
        assert kept < rows
        assert not kept & {row.input for row in fold.test}
    note = "2 of 4 modules were retrieved by similarity:embedding=gram, and anew on the rows of every fold; "
    assert note + "the others take no part" in found.record.notes


def test_of_a_very_large_hub_modules_are_retrieved_unless_all_are_asked_for(
    task: Task, hub: Hub, llama: Backbone, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(DEFAULTS, all_raced=3, retrieved=2)
    monkeypatch.setattr("headstart.fitting.large.DEFAULTS", few)
    assert run(task, hub, llama, store).record.settings["retrieved"] == 2
    assert run(task, hub, llama, store, retrieve=4).record.settings["retrieved"] == 4
    assert run(task, hub, llama, store, starts=["average", "manual:members=ada,bob"]).record.settings["retrieved"] == 4
    planned = foresee(lambda **more: run(task, hub, llama, False, **more))
    counts: dict[str, int] = {}
    for each in planned.expected:
        counts[each.type] = counts.get(each.type, 0) + each.compute
    assert counts["tune"] == 3 + 2 * 5 + 1  # reference modules, methods on two folds, and the module


def test_modules_that_are_taken_by_name_cannot_be_retrieved(task: Task, hub: Hub, llama: Backbone) -> None:
    with pytest.raises(SettingError, match=r"manual takes modules by name.*narrow the hub by name"):
        run(task, hub, llama, False, retrieve=2, blend="manual:members=ada,bob")
    with pytest.raises(SettingError, match="cannot retrieve 0 modules"):
        run(task, hub, llama, False, retrieve=0)
    with pytest.raises(SettingError, match="retrieve is a str"):
        run(task, hub, llama, False, retrieve="2")
    methods = parse_methods(["manual:members=ada,bob"], Blend())
    assert LargeHub.of(4, methods, retrieve=4) is None, "nothing is left out"


def test_fresh_and_random_modules_are_those_of_the_whole_hub(task: Task, llama: Backbone) -> None:
    wide = LoraSettings(2, 4.0, ("q_proj", "k_proj", "v_proj", "o_proj"))
    modules = [module(llama, f"m{seed}", seed=seed) for seed in range(3)]
    modules += [LoraModule.fresh(llama, wide, name="w", seed=5)]
    whole = pool_of(modules, Blend(), backbone=llama)
    part = whole.narrowed(modules[:1])
    assert part.modules == (modules[0],)
    assert set(part.shape.card.targets) == set(whole.shape.card.targets) == set(modules[3].card.targets)
    assert part.norms == whole.norms
    found = run(task, modules, llama, False, retrieve=1, starts="average")
    assert set(found.module.card.targets) == set(modules[3].card.targets)
    assert any(note.startswith("1 of 4 modules was retrieved by") for note in found.record.notes)


def test_a_dry_run_counts_no_pass_for_retrieval(task: Task, hub: Hub, llama: Backbone) -> None:
    def tokens(**more: Any) -> int:
        planned = foresee(lambda **how: run(task, hub, llama, False, starts="average", **more, **how))
        return sum(each.tokens for each in planned.expected if each.type == "score")

    assert tokens(retrieve=2) <= tokens()


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a hub of four a large one."""
    race = Race(confidence=0.5, budget=0.7, winners=2)
    monkeypatch.setattr("headstart.fitting.large.DEFAULTS", replace(DEFAULTS, all_scored=3, race=race))


def test_modules_of_a_large_hub_race_on_all_rows_and_in_every_fold(
    task: Task, hub: Hub, llama: Backbone, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    heard: list[Event] = []
    found = run(task, hub, llama, store, starts="ensemble", progress=heard.append)
    rounds = [event.text for event in heard if isinstance(event, Note) and event.text.startswith("round 1: 4 modules")]
    assert len(rounds) == 3
    ranking = found.record.frames["ranking"]
    assert len(ranking) == found.record.settings["retrieved"] == 4
    raced = found.ranking.stage
    assert 2 <= raced.count("finalist") < 4
    left = ranking[ranking["stage"] != "finalist"]
    assert left["cosine"].isna().all()
    assert not (left["weight"] > 0).any()
    assert ranking["weight"].sum() == pytest.approx(1.0)
    said = (
        "4 modules raced on a budget of 70% of all rows for 2 places: those that left early have no score and no weight"
    )
    assert said in found.record.notes
    assert "left in round" in fit_page(found.record)
    planned = foresee(lambda **more: run(task, hub, llama, store, starts="ensemble", **more))
    assert sum(each.compute for each in planned.expected) == 0
    empty = foresee(lambda **more: run(task, hub, llama, False, **more))
    assert sum(each.compute for each in empty.expected if each.type == "score") > 4


def test_a_large_hub_is_scored_where_its_modules_cannot_race(
    task: Task, hub: Hub, llama: Backbone, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    heard: list[Event] = []
    found = run(task, hub, llama, store, blend="softmax:indicator=grand", progress=heard.append)
    assert not found.record.frames["ranking"]["grand"].isna().any()
    said = "'grand' has one value for all rows together, so modules cannot race by it: all are scored"
    assert [event.text for event in heard if isinstance(event, Note)].count(said) == 3
    assert f"in a hub of 4 modules, {said}" in found.record.notes


def test_a_race_on_too_few_rows_has_no_budget() -> None:
    usual = LargeHub(500, None, Race(budget=0.2, winners=16))
    assert usual.on(30) == usual.race
    assert usual.on(6) == Race(winners=16)
