"""Retrieving and racing on the tiny Llama: through the units, the store and the ranking."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart.backbones import Backbone
from headstart.backbones.load import tokens_of
from headstart.errors import SettingError
from headstart.events import Event, Note, UnitEvent
from headstart.indicators.engine import score_table
from headstart.kinds import Module
from headstart.ranking.race import Race, run_race
from headstart.ranking.rank import Ranking, rank
from headstart.ranking.retrieve import Retrieval, as_retrieval, joined
from headstart.ranking.rounds import by_example, reading_order
from headstart.tasks import Example, Task
from headstart.units import foresee
from small_hub import RECIPE, module, write_hub

pytest_plugins = ["small_road"]

FAST = Race(first=4, confidence=0.5)


@pytest.fixture(scope="module")
def modules(llama: Backbone) -> list[Module]:
    """Twelve modules of two shapes, three of which are close to the first."""
    made: list[Module] = [module(llama, f"m{seed}", seed=seed, rank=2 + seed % 2) for seed in range(9)]
    for number in range(3):
        first = made[0].parameters()
        near = made[0].with_parameters({name: value * (1 + 1e-4 * (number + 1)) for name, value in first.items()})
        made.append(dataclasses.replace(near, card=near.card.model_copy(update={"name": f"near{number}"})))
    return made


@pytest.fixture(scope="module")
def full(task: Task, modules: list[Module], llama: Backbone) -> Ranking:
    return rank(task, modules, llama, indicators="loss", recipe=RECIPE)


@pytest.mark.parametrize("race", [Race(), FAST, Race(budget=0.5), Race(first=2, tie=0)])
def test_a_race_is_the_race_over_the_table(race: Race, task: Task, modules: list[Module], llama: Backbone) -> None:
    live = rank(task, modules, llama, indicators="loss", recipe=RECIPE, race=race)
    ordered = [task.dev[index] for index in reading_order(task.dev, seed=0)]
    table = score_table(modules, ordered, llama, indicators="loss", text_format=RECIPE.text_format)
    values = by_example(table, "loss")

    def read(members: Sequence[int], rows: slice) -> np.ndarray:
        return values[list(members), rows]

    costs = [tokens_of([row], llama, RECIPE.text_format) for row in ordered]
    replayed = run_race(read, modules=len(modules), rows=len(ordered), race=race, costs=costs)
    assert tuple(standing.rows for standing in live.standings) == replayed.rows
    for standing, left in zip(live.standings, replayed.left, strict=True):
        assert standing.stage == ("finalist" if left is None else f"left in round {left.round}")
    for index, (value, rows) in enumerate(zip(live.scores.values["loss"], replayed.rows, strict=True)):
        tokens = table.rows[(table.rows["module"] == modules[index].name) & (table.rows["example"] < rows)]["tokens"]
        assert value == pytest.approx(values[index, :rows].sum() / tokens.sum(), rel=1e-4)
    assert replayed.best is not None
    assert live.frame()["module"][0] == modules[replayed.best].name


def test_without_a_race_nothing_changes(full: Ranking) -> None:
    assert (full.standings, full.tokens, full.stage) == ((), None, ("",) * 12)
    assert list(full.frame().columns) == ["module", "task", "family", "license", "loss"]
    assert full.finalists() is full


def test_tokens_are_counted_beside_those_of_the_full_pass(task: Task, modules: list[Module], llama: Backbone) -> None:
    raced = rank(task, modules, llama, indicators="loss", recipe=RECIPE, race=FAST)
    order = [task.dev[index] for index in reading_order(task.dev, seed=0)]

    def length(text: str) -> int:
        return len(llama.tokenizer(text, add_special_tokens=False)["input_ids"])

    lengths = np.cumsum([min(length(row.input), 48) + min(length(row.target), 8) for row in order])
    assert raced.tokens is not None
    assert raced.tokens.full == 12 * lengths[-1]
    assert raced.tokens.computed == sum(lengths[standing.rows - 1] for standing in raced.standings)
    assert raced.tokens.share == raced.tokens.computed / raced.tokens.full <= 1


def test_who_left_early_is_below_those_that_stayed(task: Task, modules: list[Module], llama: Backbone) -> None:
    raced = rank(task, modules, llama, indicators=("loss", "el2n"), recipe=RECIPE, race=Race(budget=0.6))
    frame = raced.frame()
    assert list(frame.columns[-3:]) == ["stage", "rows", "why"]
    assert frame["rows"].is_monotonic_decreasing
    assert frame["stage"][0] == "finalist"
    for _, group in frame.groupby("stage"):
        assert group["loss"].is_monotonic_decreasing
    assert not frame[["loss", "el2n"]].isna().any(axis=None)
    last = frame[frame["why"].str.startswith("the budget lasts for fewer: behind ")]
    assert len(last) > 0
    finalists = raced.finalists()
    assert finalists.scores.names == tuple(found.name for found in finalists.modules)
    assert set(finalists.stage) == {"finalist"}


def test_a_sum_is_over_all_rows_even_of_a_module_that_left(task: Task, modules: list[Module], llama: Backbone) -> None:
    means, sums = (
        rank(task, modules, llama, indicators="loss", recipe=RECIPE, race=FAST, reduction=reduction).scores
        for reduction in ("mean", "sum")
    )
    # Every target of this task is as long as any other.
    tokens = sums.tokens * len(task.dev) / sums.examples
    assert np.allclose(np.array(sums.values["loss"]), np.array(means.values["loss"]) * tokens, rtol=1e-6)


def test_the_second_race_computes_nothing(task: Task, llama: Backbone, tmp_path: Path) -> None:
    hub, heard = write_hub(tmp_path / "hub", llama), list[Event]()
    first = rank(task, hub, llama, recipe=RECIPE, race=FAST, store=tmp_path / "store", progress=heard.append)
    computed = {event.key for event in heard if isinstance(event, UnitEvent) and event.state == "computed"}
    assert len(computed) > 0
    notes = [event.text for event in heard if isinstance(event, Note)]
    assert notes[0].startswith("dan was tuned on a task called")
    assert notes[1] == "round 1: 4 modules on rows 1 to 4 of 12"
    heard.clear()
    again = rank(task, hub, llama, recipe=RECIPE, race=FAST, store=tmp_path / "store", progress=heard.append)
    assert {event.state for event in heard if isinstance(event, UnitEvent)} == {"reused"}
    assert again.frame().equals(first.frame())
    assert again.tokens == first.tokens


def test_modules_are_retrieved_by_a_list(task: Task, modules: list[Module], llama: Backbone, full: Ranking) -> None:
    heard: list[Event] = []
    found = rank(
        task, modules, llama, indicators="cosine", recipe=RECIPE, retrieve=Retrieval(5, by=("loss",)),
        progress=heard.append,
    )  # fmt: skip
    order = list(full.frame()["module"])
    assert {row.module for row in found.frame().itertuples() if row.stage == "finalist"} == set(order[:5])
    assert list(found.frame()["module"])[5:] == order[5:]
    assert found.frame()["why"][5] == "number 6 of 12 by loss"
    assert math.isnan(found.frame()["cosine"][5])
    assert found.scores.reasons["cosine"][order[5]] == "retrieved out: number 6 of 12 by loss"
    assert "retrieved 5 of 12 modules by loss" in [event.text for event in heard if isinstance(event, Note)]
    assert found.tokens is not None
    assert found.tokens.computed == found.tokens.full * 17 / 12


def test_retrieving_more_than_there_are_takes_all_and_says_so(
    task: Task, modules: list[Module], llama: Backbone
) -> None:
    heard: list[Event] = []
    found = rank(task, modules, llama, recipe=RECIPE, retrieve=50, progress=heard.append)
    assert set(found.stage) == {"finalist"}
    assert "there are no more than 50 modules: all 12 take part" in [e.text for e in heard if isinstance(e, Note)]


def test_a_module_of_the_very_task_is_told(task: Task, modules: list[Module], llama: Backbone) -> None:
    heard: list[Event] = []
    own = replace(modules[0], card=modules[0].card.model_copy(update={"task": task.name}))
    rank(task, [own, *modules[1:3]], llama, indicators="loss", recipe=RECIPE, progress=heard.append)
    (said,) = (event.text for event in heard if isinstance(event, Note) and "tuned on a task called" in event.text)
    assert said == (
        f"{own.name} was tuned on a task called 'reviews' too: if it is this one, the rows that score were seen; leave "
        "such modules out"
    )


def test_lists_are_joined_by_ranks() -> None:
    lists = {"a": [0.3, 0.2, math.nan, 0.1], "b": [1.0, 4.0, 3.0, 4.0]}
    # Ranks: a 1, 2, 4, 3; b 4, 1.5, 3, 1.5. Their means: 2.5, 1.75, 3.5, 2.25; the best of them: 1, 1.5, 3, 1.5.
    assert joined(lists) == [1, 3, 0, 2]
    assert joined(lists, "best_rank") == [0, 1, 3, 2]


def test_modules_are_retrieved_by_gram_where_a_reference_module_can_be_tuned(
    task: Task, modules: list[Module], llama: Backbone
) -> None:
    for splits, name in ((("train", "dev"), "similarity:embedding=gram"), (("dev",), "arrow")):
        heard: list[Event] = []
        drawn = replace(task, splits={split: task.splits[split] for split in splits})
        found = rank(drawn, modules, llama, indicators="loss", recipe=RECIPE, retrieve=5, progress=heard.append)
        assert f"retrieved 5 of 12 modules by {name}" in [event.text for event in heard if isinstance(event, Note)]
        assert (found.reference is not None) == (name != "arrow")
        assert found.stage.count("retrieved out") == 7


def test_what_cannot_be_raced_or_retrieved_is_refused_before_any_work(task: Task, llama: Backbone) -> None:
    with pytest.raises(SettingError) as caught:
        rank(task, [], llama, indicators=("cosine", "grand"), race=True)
    assert str(caught.value).startswith(
        "'grand' has one value for all rows together, none for each row, so modules cannot race by it; race by: loss, "
    )
    for given, message in (
        (0, "cannot retrieve 0 modules; give 1 or more, or leave it out"),
        (True, "give a number of modules, or a Retrieval"),
        ("50", "give a number of modules, or a Retrieval"),
    ):
        with pytest.raises(SettingError, match=message):
            as_retrieval(given)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="unknown join 'sum'; choose one of: mean_rank, best_rank"):
        Retrieval(3, join="sum")  # type: ignore[arg-type]


def test_classes_come_up_evenly_in_every_round() -> None:
    rows = [Example(f"row {index}", ("yes" if index % 4 else "no",), ("yes", "no")) for index in range(40)]
    order = reading_order(rows, seed=3)
    assert sorted(order) == list(range(40))
    assert [sum(rows[index].target == "no" for index in order[:end]) for end in (4, 8, 16, 32)] == [1, 2, 4, 8]
    assert order != reading_order(rows, seed=4)


def test_a_dry_run_tells_the_first_round_and_what_may_follow(
    task: Task, modules: list[Module], llama: Backbone, tmp_path: Path
) -> None:
    forecast = foresee(
        lambda engine, progress: rank(
            task, modules, llama, recipe=RECIPE, race=FAST, store=tmp_path, engine=engine, progress=progress
        )
    )
    assert [(each.type, each.compute, each.later) for each in forecast.expected] == [
        ("score", 12, False),
        ("score", 12, True),
    ]
