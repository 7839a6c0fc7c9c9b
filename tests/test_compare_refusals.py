"""What a comparison refuses, leaves out or cannot say, with the reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comparison_example import assert_same
from headstart.backbones import Backbone
from headstart.blending import Blend
from headstart.comparing.compare import compare
from headstart.comparing.comparison import Comparison
from headstart.comparing.starting import size_notes
from headstart.errors import HubError, MergeError, SettingError, TaskError
from headstart.evaluating import unit as evaluating
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.events import Event
from headstart.hub import Hub
from headstart.kinds import save_module
from headstart.tasks import Task
from small_hub import RECIPE, misfit, module, write_hub

pytest_plugins = ["tuned_starts", "small_road"]

SEEDS, SHOTS = 2, 3
BLEND = Blend(temperature=0.5)


def run(task: Task, hub: Any, llama: Backbone, **settings: Any) -> Comparison:
    return compare(task, hub, llama, **({"seeds": SEEDS, "shots": SHOTS, "blend": BLEND, "recipe": RECIPE} | settings))


def test_an_unfit_module_is_reported_as_refused(task: Task, llama: Backbone, tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub", llama)
    save_module(misfit(llama, "eve"), tmp_path / "eve")
    hub.add(tmp_path / "eve")
    found = run(task, hub, llama, seeds=1)
    assert list(found.refused["module"]) == ["eve"]
    assert found.settings["modules"] == 4


def test_an_undefined_score_is_missing_with_the_reason(
    task: Task, hub: Hub, llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undefined(*args: Any, **settings: Any) -> Any:
        return [replace(found, score=float("nan")) for found in evaluate_many(*args, **settings)]

    monkeypatch.setattr(evaluating, "evaluate_many", undefined)
    found = run(task, hub, llama, seeds=1, store=tmp_path)
    assert found.scores["score"].isna().all()
    assert set(found.scores["reason"]) == {"ACC is undefined for these predictions"}
    assert "NaN" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert_same(run(task, hub, llama, seeds=1, store=tmp_path), found)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"seeds": 0}, SettingError, "seeds 0 must be at least 1"),
        ({"decoding": "beam"}, SettingError, "unknown decoding 'beam'; choose one of: auto"),
        ({"indicators": ("cosin",)}, SettingError, "unknown indicator 'cosin'"),
        ({"blend": Blend(indicator="loss", temperature=0.0)}, SettingError, "temperature 0.0 must be above 0"),
        ({"blend": Blend(space="tie")}, SettingError, "unknown merge space 'tie'"),
        ({"blend": Blend(reduction="median")}, SettingError, "unknown reduction 'median'"),
        ({"recipe": "fast"}, SettingError, "unknown recipe 'fast'"),
        ({"shots": 7}, TaskError, "class 'negative' has 6 distinct rows in split 'train', 7 are needed"),
    ],
)
def test_a_wrong_wish_costs_no_work(
    settings: dict[str, Any], error: type[Exception], message: str, task: Task, hub: Hub, llama: Backbone,
    tmp_path: Path, tunes: list[str],
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        run(task, hub, llama, store=tmp_path / "store", **settings)
    assert tunes == []
    assert list(tmp_path.iterdir()) == []


def test_modules_that_cannot_be_averaged_are_refused_before_tuning(
    task: Task, llama: Backbone, tunes: list[str]
) -> None:
    mixed = [module(llama, "thin", seed=1), module(llama, "thick", seed=2, rank=3)]
    with pytest.raises(MergeError, match="merge them with space 'exact' or 'svd'"):
        run(task, mixed, llama, blend=Blend(space="parameters"))
    assert tunes == []
    assert len(run(task, mixed, llama, seeds=1, blend=Blend(space="exact")).scores) == 10
    with pytest.raises(HubError, match="no module to rank"):
        run(task, [], llama)


def test_a_task_needs_test_rows(task: Task, hub: Hub, llama: Backbone) -> None:
    without = replace(task, splits={key: rows for key, rows in task.splits.items() if key != "test"})
    with pytest.raises(TaskError, match="no split 'test'"):
        run(without, hub, llama)
    with pytest.raises(TaskError, match="task 'reviews' has an empty test split; add rows"):
        run(replace(task, splits={**task.splits, "test": ()}), hub, llama)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_broken_unit_is_computed_again(content: bytes, task: Task, hub: Hub, llama: Backbone, tmp_path: Path) -> None:
    first = run(task, hub, llama, seeds=1, store=tmp_path)
    for path in tmp_path.glob("evaluate/*/*/*.json"):
        path.write_bytes(content)
    heard: list[Event] = []
    assert_same(run(task, hub, llama, seeds=1, store=tmp_path, progress=heard.append), first)
    assert "is damaged" in str(heard)


def test_unequal_sizes_are_named() -> None:
    row = {"method": "scratch", "parameters": 460_800}
    equal = [row, row | {"method": "random"}]
    assert size_notes(equal) == []
    note = (
        "The methods tune unequal numbers of parameters: 460,800 (scratch, random), 2,442,240 (ensemble). A difference "
        "between them may be one of size. LoRA methods have one size unless ranks of their own are asked for "
        "(--own-ranks or equal_rank=False, or a method's rank); of other kinds, compare modules of one shape "
        "(--exclude, or Hub.where(exclude=…))."
    )
    assert size_notes([*equal, row, {"method": "ensemble", "parameters": 2_442_240}]) == [note]
