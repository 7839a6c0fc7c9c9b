"""Where memory runs out, fewer lanes, modules or rows share a pass, with the results that enough memory gives."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from headstart.backbones import Backbone
from headstart.backbones import memory as measuring
from headstart.backbones.memory import MemoryUse, in_halves, require_ran_out, watched
from headstart.errors import SettingError, TooLargeError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.indicators.engine import score
from headstart.tuning import pack as packing
from headstart.tuning.lane import Lane
from headstart.tuning.lanes import tune_lanes
from headstart.tuning.pack import Pack
from headstart.tuning.run import Run
from headstart.tuning.tune import tune
from headstart.tuning.width import Width
from naive import REVIEWS, random_lora
from test_lanes import largest_difference
from test_tuning import RECIPE, TASK

ON_A_CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes. Error code 12")
RAN_OUT = [torch.OutOfMemoryError(), MemoryError(), ON_A_CPU, TooLargeError("a row does not fit; lower max_input")]
LANES = [Lane(TASK, recipe=RECIPE, seed=seed) for seed in range(4)]


def cramped(function: Callable[..., Any], size: Callable[..., int], most: int, error: Exception) -> Callable[..., Any]:
    """A stand-in for a small device: `function`, which fails when more than `most` are computed at once."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if size(*args, **kwargs) > most:
            raise error
        return function(*args, **kwargs)

    return guarded


@pytest.mark.parametrize("error", RAN_OUT, ids=["device", "python", "cpu", "nested"])
def test_half_as_much_until_it_fits(error: Exception) -> None:
    tried: list[int] = []

    def compute(most: int) -> int:
        tried.append(most)
        if most > 2:
            raise error
        return most

    assert in_halves(compute, 11, too_large="too large; take less") == 2
    assert tried == [11, 5, 2]
    with pytest.raises(TooLargeError, match=r"^too large; take less$"):
        in_halves(cramped(int, lambda size: size, 0, error), 4, too_large="too large; take less")


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        in_halves(cramped(int, lambda size: size, 0, RuntimeError("shapes cannot be multiplied")), 4, too_large="")
    with pytest.raises(ValueError, match="no error of memory"):
        require_ran_out(ValueError("no error of memory"))
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        torch.empty(10**15)
    require_ran_out(caught.value)  # what this PyTorch really says is known


@pytest.mark.parametrize("error", RAN_OUT[:3], ids=["device", "python", "cpu"])
@pytest.mark.parametrize("where", ["entering", "packing", "gradients", "evaluation"])
def test_lanes_on_a_small_device(
    where: str, error: Exception, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"entering": 0}
    begin = Run.begin

    def enter(self: Run) -> None:
        if not self.values and here["entering"] == 2:
            raise error
        begin(self)
        here["entering"] += 1

    small = {
        "entering": lambda: monkeypatch.setattr(Run, "begin", enter),
        "packing": lambda: monkeypatch.setattr(
            packing, "stack_of", cramped(packing.stack_of, lambda modules, *_, **__: len(modules), 2, error)
        ),
        "gradients": lambda: monkeypatch.setattr(
            Pack, "find_gradients", cramped(Pack.find_gradients, lambda pack: len(pack.runs), 2, error)
        ),
        "evaluation": lambda: monkeypatch.setattr(
            packing,
            "evaluate_attached",
            cramped(packing.evaluate_attached, lambda *_, modules, **__: modules, 2, error),
        ),
    }
    expected = [tune(TASK, llama, recipe=RECIPE, seed=lane.seed) for lane in LANES]
    small[where]()
    if where == "entering":
        monkeypatch.setattr(Run, "result", left(Run.result, here))
    found = dict(tune_lanes(LANES, llama, most=4))
    for index, alone in enumerate(expected):
        assert largest_difference(found[index].module, alone.module) < 1e-5
        assert [point.step for point in found[index].curve] == [point.step for point in alone.curve], "each once"


def left(result: Callable[[Run], Any], here: dict[str, int]) -> Callable[[Run], Any]:
    """`Run.result`, after which there is memory for one more."""

    def counted(self: Run) -> Any:
        here["entering"] -= 1
        return result(self)

    return counted


def test_a_single_lane_that_does_not_fit(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "stack_of", cramped(packing.stack_of, lambda *_, **__: 1, 0, MemoryError()))
    with pytest.raises(SettingError, match="a single lane does not fit into the device's memory; lower batch_size or"):
        tune(TASK, llama, recipe=RECIPE)


@pytest.mark.parametrize("decoding", ["options", "generate"])
def test_fewer_rows_and_modules_share_a_pass_of_an_evaluation(
    decoding: str, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [random_lora(llama, seed=seed) for seed in range(3)]
    words: dict[str, Any] = {"metric": "ACC", "decoding": decoding}
    expected = evaluate_many(modules, REVIEWS, llama, **words)
    name = "option_scores" if decoding == "options" else "generate"
    real, rows = getattr(Backbone, name), []

    def small(self: Backbone, prompts: Any, *args: Any, modules: int = 1, **kwargs: Any) -> Any:
        rows.append(len(prompts) * modules)
        if rows[-1] > 2:
            raise torch.OutOfMemoryError
        return real(self, prompts, *args, modules=modules, **kwargs)

    monkeypatch.setattr(Backbone, name, small)
    found = evaluate_many(modules, REVIEWS, llama, **words)
    assert max(rows) > 2, "the first attempt was too large"
    for one, other in zip(found, expected, strict=True):
        assert one.predictions == other.predictions
        assert one.losses == pytest.approx(other.losses, abs=1e-4)
    monkeypatch.setattr(Backbone, name, cramped(real, lambda *_, **__: 1, 0, torch.OutOfMemoryError()))
    with pytest.raises(TooLargeError, match="a single row does not fit into the device's memory; lower max_input or m"):
        evaluate_many(modules, REVIEWS, llama, **words)


@pytest.mark.parametrize("indicator", ["loss", "grand"])
def test_fewer_examples_and_modules_share_a_pass_of_scoring(
    indicator: str, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [random_lora(llama, seed=seed) for seed in range(3)]
    expected = score(modules, REVIEWS, llama, indicators=indicator).values[indicator]
    real, rows, done = Backbone.target_logits, [], []

    def small(self: Backbone, batch: Any, *, modules: int = 1) -> Any:
        rows.append(len(batch.indices) * modules)
        if rows[-1] > 2:
            raise torch.OutOfMemoryError
        return real(self, batch, modules=modules)

    monkeypatch.setattr(Backbone, "target_logits", small)
    found = score(modules, REVIEWS, llama, indicators=indicator, progress=done.append).values[indicator]
    assert max(rows) > 2, "the first attempt was too large"
    assert found == pytest.approx(expected, rel=1e-4)
    assert (done[-1].done, max(event.done for event in done)) == (done[-1].total, done[-1].total)
    monkeypatch.setattr(Backbone, "target_logits", cramped(real, lambda *_, **__: 1, 0, torch.OutOfMemoryError()))
    with pytest.raises(TooLargeError, match="a single example under a single module does not fit into the device's me"):
        score(modules, REVIEWS, llama, indicators=indicator)


# How many fit is measured


def test_the_width_is_what_fits_by_the_first_step() -> None:
    # A pass of 4 lanes took 400 of 1,000 bytes with rows half as long as the longest: 200 for a lane later, and 0.9 of
    # 1,000 bytes is enough for 4 of them. With 500 bytes in all, 2 fit.
    width = Width(4, budget=2048, lane_tokens=240)
    width.measured(MemoryUse(used=400, free=600), lanes=4, share=0.5)
    assert width.now == 4
    width.measured(MemoryUse(used=400, free=100), lanes=4, share=0.5)
    assert width.now == 2
    width.measured(MemoryUse(used=400, free=10**9), lanes=4, share=1.0)
    assert width.now == 2, "it stays, so that nothing swings"
    width.measured(MemoryUse(used=400, free=0), lanes=1, share=0.1)
    assert width.now == 1
    width.measured(MemoryUse(), lanes=1, share=1.0)
    assert width.now == 1


class SmallCuda:
    """What `torch.cuda` says of a device of 1,000 bytes where 100 are held, 400 were at the peak, and 450 reserved."""

    def reset_peak_memory_stats(self, _: torch.device) -> None:
        self.reset = True

    def memory_allocated(self, _: torch.device) -> int:
        return 100

    def max_memory_allocated(self, _: torch.device) -> int:
        assert self.reset
        return 400

    def memory_reserved(self, _: torch.device) -> int:
        return 450

    def mem_get_info(self, _: torch.device) -> tuple[int, int]:
        return (550, 1000)


def test_memory_is_measured_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring.torch, "cuda", SmallCuda())
    with watched(torch.device("cuda")) as use:
        assert use == MemoryUse(0, 0)
    assert use == MemoryUse(used=300, free=600)  # 1,000 − 400
    with watched(torch.device("cpu")) as use:
        pass
    assert use == MemoryUse(0, 0)


def test_lanes_follow_the_measurement(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    find, widths, shares = Pack.find_gradients, [], []

    def measured(self: Pack) -> None:
        find(self)
        widths.append(len(self.runs))
        shares.append(self.share)
        # The longest rows of 4 lanes need more than there is.
        self.memory_use = MemoryUse(used=100 * len(self.runs), free=0)

    expected = [tune(TASK, llama, recipe=RECIPE, seed=lane.seed).module for lane in LANES]
    monkeypatch.setattr(Pack, "find_gradients", measured)
    found = dict(tune_lanes([replace(lane, label=str(lane.seed)) for lane in LANES], llama, most=4))
    assert widths[0] == 4
    assert max(widths[1:]) < 4
    assert all(0 < share <= 1 for share in shares)
    for index, alone in enumerate(expected):
        assert largest_difference(found[index].module, alone) < 1e-5


def test_what_a_pack_reads_is_a_share_of_the_longest_rows_that_it_may_read(llama: Backbone) -> None:
    # One lane reads 4 short rows at once, the other 1 long one: together they read at most 4 rows as long as that.
    long = tuple(replace(row, input=row.input * 3) for row in REVIEWS)
    tasks = (TASK, replace(TASK, splits={"train": long, "dev": REVIEWS}))
    lanes = [Lane(task, recipe=RECIPE.change(batch_size=size)) for task, size in zip(tasks, (4, 1), strict=True)]
    runs = [Run(lane, llama) for lane in lanes]
    for run in runs:
        run.begin()
    pack = Pack(runs, llama)
    pack.find_gradients()
    (four, _), (one, longest) = (run.largest for run in runs)
    assert (four, one) == (4, 1)
    rows, (long_row,) = (run.next_rows() for run in runs)
    assert pack.share == len(rows) * (len(long_row.prompt) + len(long_row.target)) / (4 * longest)
    assert len(rows) > 1
    assert len(long_row.prompt) > max(len(row.prompt) for row in rows)
