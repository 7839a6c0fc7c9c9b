"""The guard: folds that keep rows apart, losses of rows, the rule, and the whole on a tiny backbone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headstart.backbones import Backbone
from headstart.errors import SettingError, TaskError
from headstart.events import Event, UnitEvent
from headstart.fitting.folds import folds_of
from headstart.fitting.guard import guard
from headstart.hub import Hub
from headstart.kinds import fresh_module
from headstart.records import TaskCard
from headstart.tasks import Example, Task
from headstart.testing import tiny_backbone
from headstart.units import Store, foresee
from small_hub import RECIPE, write_hub, write_task


def shots(rows: int = 12, *, groups: int | None = None) -> Task:
    """Rows of two classes, for train and dev each, of `groups` groups."""

    def split(name: str) -> tuple[Example, ...]:
        return tuple(
            Example(f"{name} {row}", (("no", "yes")[row % 2],), ("no", "yes"),
                    group=None if groups is None else f"{name} {row % groups}")
            for row in range(rows)
        )  # fmt: skip

    card = TaskCard(name="shots", metric="ACC", labels=("no", "yes"))
    return Task(card, {"train": split("train"), "dev": split("dev"), "test": split("test")})


def test_every_row_is_held_out_once_and_classes_are_spread() -> None:
    task = shots()
    folds = folds_of(task, count=4)
    held = [row for fold in folds for row in fold.test]
    assert Counter(held) == Counter([*task.train, *task.dev])
    for fold in folds:
        assert Counter([*fold.train, *fold.dev, *fold.test]) == Counter(held)
        assert 5 <= len(fold.test) <= 7
        assert max(Counter((row.input.split()[0], row.target) for row in fold.test).values()) == 2


def test_folds_do_not_depend_on_the_order_of_rows_but_on_the_seed() -> None:
    task = shots()
    turned = Task(task.card, {name: rows[::-1] for name, rows in task.splits.items()})
    assert [set(fold.test) for fold in folds_of(task, count=3)] == [
        set(fold.test) for fold in folds_of(turned, count=3)
    ]
    assert [set(fold.test) for fold in folds_of(task, count=3)] != [
        set(fold.test) for fold in folds_of(task, count=3, seed=1)
    ]


def test_a_group_is_never_divided() -> None:
    for fold in folds_of(shots(groups=5), count=4):
        assert not {row.group for row in fold.test} & {row.group for row in (*fold.train, *fold.dev)}


def test_equal_rows_are_in_one_fold() -> None:
    task = shots()
    twice = Task(task.card, {**task.splits, "dev": task.train[:6] + task.dev})
    for fold in folds_of(twice, count=3):
        assert not set(fold.test) & {*fold.train, *fold.dev}


def test_equal_rows_of_different_groups_are_in_one_fold_with_both_groups() -> None:
    task = shots(groups=6)
    again = tuple(replace(row, group="other" if place % 2 else None) for place, row in enumerate(task.train[:4]))
    for fold in folds_of(Task(task.card, {**task.splits, "dev": again + task.dev}), count=3):
        rest = (*fold.train, *fold.dev)
        assert not {row.input for row in fold.test} & {row.input for row in rest}
        assert not {row.group for row in fold.test if row.group} & {row.group for row in rest}


def test_of_many_held_out_rows_each_fold_answers_a_part() -> None:
    whole = folds_of(shots(), count=4)
    folds = folds_of(shots(), count=4, most=10)
    assert [len(fold.test) for fold in folds] == [3] * 4
    assert all(set(cut.test) <= set(fold.test) for cut, fold in zip(folds, whole, strict=True))
    assert [fold.train for fold in folds] == [fold.train for fold in whole]
    assert folds_of(shots(), count=4, most=100) == whole


def test_too_few_rows_to_hold_some_out_are_refused() -> None:
    with pytest.raises(TaskError, match=r"2 rows in train and 2 in dev, too few to hold out one part in 4; add rows"):
        folds_of(shots(2, groups=1), count=4)
    with pytest.raises(SettingError, match=r"folds 1 must be at least 2"):
        folds_of(shots(), count=1)


@pytest.fixture(scope="module")
def backbone(tiny_llama: Any) -> Backbone:
    return Backbone.load(tiny_llama, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Hub:
    return write_hub(tmp_path_factory.mktemp("guard") / "hub", backbone)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("guard") / "reviews"))


def test_every_fold_of_every_seed_has_fresh_modules_of_its_own(
    task: Task, hub: Hub, backbone: Backbone, tmp_path: Path
) -> None:
    for seed in (0, 1):
        store = Store(tmp_path / f"seed{seed}")
        guard(task, hub, backbone, starts="average", folds=2, recipe=RECIPE, seed=seed, store=store)
        tunings = list(store.entries(type="tune"))
        assert {entry.inputs["seed"] for entry in tunings} == {2 * seed, 2 * seed + 1}
        assert {entry.label.partition(" on ")[2] for entry in tunings} == {
            "reviews, fold 1 of 2",
            "reviews, fold 2 of 2",
        }, "what progress calls them"


def test_the_guard_holds_every_row_out_and_a_second_run_computes_nothing(
    task: Task, hub: Hub, backbone: Backbone, tmp_path: Any
) -> None:
    store, heard = Store(tmp_path / "store"), []

    def listen(event: Event) -> None:
        if isinstance(event, UnitEvent) and event.state in ("computed", "reused"):
            heard.append(event)

    def run(**more: Any) -> Any:
        return guard(task, hub, backbone, folds=2, recipe=RECIPE, store=store, **more)

    planned = foresee(run)
    assert {each.type for each in planned.expected} >= {"score", "merge", "tune", "evaluate"}
    first = run(progress=listen)
    assert (first.rows, first.folds) == (24, 2)
    assert list(first.table["method"]) == ["scratch", "random", "average", "best_single", "ensemble"]
    assert first.table["loss"].notna().all()
    assert {event.type for event in heard if event.state == "computed"} == {"score", "merge", "tune", "evaluate"}
    heard.clear()
    second = run(progress=listen)
    assert {event.state for event in heard} == {"reused"}
    assert second.sentence == first.sentence


def test_what_a_row_is_answered_by_has_not_seen_it(
    task: Task, hub: Hub, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.fitting import guard as guarding

    seen: list[tuple[Task, set[Example]]] = []
    planned = guarding.plan_trials

    def spied(draw: Task, *args: Any, **settings: Any) -> Any:
        trials = planned(draw, *args, **settings)
        for trial in trials:
            read = set(trial.tuning.rows.value.train) | set(trial.tuning.rows.value.dev)
            read |= {row for unit in trial.after.choice.units for row in unit.rows.value}
            seen.append((draw, read))
            assert not read & set(trial.after.unit.rows.value)
        return trials

    monkeypatch.setattr(guarding, "plan_trials", spied)
    guard(task, hub, backbone, folds=3, starts="average", recipe=RECIPE, store=False)
    assert len(seen) == 9
    assert all(not read & set(task.test) for _, read in seen)


@pytest.mark.parametrize("blend", ["gradient", "held_out", "softmax:scale=held_out"])
def test_what_a_blend_is_chosen_on_is_held_out_of_the_fold_s_own_rows(
    blend: str, task: Task, hub: Hub, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.blending import held_out

    asked: list[Task] = []
    required = held_out.require_held_out

    def spied(own: Task, *args: Any, **settings: Any) -> Any:
        asked.append(own)
        rows = required(own, *args, **settings)
        assert set(rows) == set(own.train)
        assert not set(rows) & set(own.test)
        return rows

    monkeypatch.setattr(held_out, "require_held_out", spied)
    found = guard(task, hub, backbone, folds=2, starts="ensemble", blend=blend, recipe=RECIPE, store=False)
    assert found.leader == "ensemble"
    assert [len(own.train) for own in asked] == [6, 6]


def test_a_blend_without_held_out_rows_is_refused_before_any_pass(task: Task) -> None:
    bert = tiny_backbone("bert")
    own = [fresh_module("lora", bert, {}, name=f"m{seed}", seed=seed) for seed in range(2)]
    with pytest.raises(SettingError, match=r"\(--rule softmax and --scale 1, or softmax:scale=1\)"):
        guard(task, own, bert, starts="ensemble", blend="gradient:split=dev", recipe=RECIPE, store=False)


def test_a_start_is_needed_and_a_bad_one_is_refused_before_any_pass(task: Task, hub: Hub, backbone: Backbone) -> None:
    with pytest.raises(SettingError, match="there is no start to guard; name one of"):
        guard(task, hub, backbone, starts=(), recipe=RECIPE, store=False)
    with pytest.raises(SettingError, match="unknown method 'averge'"):
        guard(task, hub, backbone, starts="averge", recipe=RECIPE, store=False)
    with pytest.raises(SettingError, match="scratch and random take part in every fit; leave out scratch"):
        guard(task, hub, backbone, starts=("scratch", "average"), recipe=RECIPE, store=False)
