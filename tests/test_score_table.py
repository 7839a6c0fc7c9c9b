"""The table of scores: every row, its reductions, and modules that are read when their turn comes."""

import gc
import math
import threading
import weakref
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from headstart.architectures import part_of
from headstart.backbones import Backbone, TargetBatch
from headstart.errors import ModuleError, SettingError
from headstart.formats import StoredModule, read_module
from headstart.indicators import WHOLE, passes
from headstart.indicators.contract import part_name
from headstart.indicators.engine import score, score_table
from headstart.indicators.table import COLUMNS, ScoreTable
from headstart.kinds import LazyModule, LoraModule, save_module
from headstart.records import ModuleCard
from naive import BACKBONES, REVIEWS, Merged, assert_untouched, encoded, load, photograph, random_lora

BY_TOKEN = ("loss", "cosine", "el2n", "kl")


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def modules(llama: Backbone) -> list[LoraModule]:
    """Seven modules of two shapes, mixed."""
    return [random_lora(llama, seed=seed, rank=2 + seed % 2) for seed in range(7)]


def table(rows: Sequence[tuple[str, str, str, int, float, int]]) -> ScoreTable:
    frame = pd.DataFrame([(*row, None if math.isfinite(row[4]) else "why") for row in rows], columns=list(COLUMNS))
    modules = tuple(dict.fromkeys(frame["module"]))
    return ScoreTable(frame.astype(COLUMNS), modules, tuple(dict.fromkeys(frame["indicator"])), 2, 5)


def test_reductions_by_hand() -> None:
    # a: (−4 − 6) / (2 + 3) = −2. b has no value on one example, so none at all. Parts are not added to the whole.
    found = table(
        [
            ("a", "loss", WHOLE, 0, -4.0, 2), ("a", "loss", WHOLE, 1, -6.0, 3),
            ("b", "loss", WHOLE, 0, -1.0, 2), ("b", "loss", WHOLE, 1, math.nan, 3),
            ("a", "grand", WHOLE, -1, -5.0, 5), ("a", "grand", "decoder.0", -1, -3.0, 5),
            ("a", "grand", "decoder.1", -1, -4.0, 5),
            ("b", "grand", WHOLE, -1, -10.0, 5),
            ("a", "tupate", WHOLE, -1, 0.5, 0), ("b", "tupate", WHOLE, -1, math.nan, 0),
        ]
    )  # fmt: skip
    mean, total = found.reduce("mean"), found.reduce("sum")
    assert mean.names == ("a", "b")
    assert mean.values["loss"] == (-2.0, pytest.approx(math.nan, nan_ok=True))
    assert total.values["loss"][0] == -10.0
    assert (mean.values["grand"], total.values["grand"]) == ((-1.0, -2.0), (-5.0, -10.0))
    # What is of no tokens is the same in a mean and in a sum.
    assert mean.values["tupate"][0] == total.values["tupate"][0] == 0.5
    assert mean.reasons == {"loss": {"b": "why"}, "tupate": {"b": "why"}}
    assert (mean.examples, mean.tokens, mean.reduction) == (2, 5, "mean")


def test_every_row_against_float64(backbone: Backbone) -> None:
    several, reference = [random_lora(backbone, seed=seed) for seed in (1, 2)], random_lora(backbone, seed=9)
    found = score_table(several, REVIEWS, backbone, indicators=BY_TOKEN, reference=reference)
    items, other = encoded(backbone), Merged(backbone, reference)
    assert list(found.rows.columns) == list(COLUMNS)
    assert len(found.rows) == len(several) * len(BY_TOKEN) * len(items)
    rows = found.rows.set_index(["module", "indicator", "example"])
    for module in several:
        merged = Merged(backbone, module)
        for place, item in enumerate(items):
            p, wanted = (one.logits(item).softmax(-1).detach() for one in (merged, other))
            gold = p[torch.arange(len(item.target)), torch.tensor(item.target)]
            v = torch.nn.functional.one_hot(torch.tensor(item.target), p.shape[1]).double()
            naive = {
                "loss": gold.log().sum(), "cosine": (gold / p.norm(dim=1)).sum(), "el2n": -(p - v).norm(dim=1).sum(),
                "kl": -(wanted * (wanted / p).log()).sum(),
            }  # fmt: skip
            for name, value in naive.items():
                row = rows.loc[(module.name, name, place)]
                assert row["value"] == pytest.approx(value.item(), rel=2e-4, abs=1e-4), name
                assert (row["part"], row["tokens"], pd.isna(row["reason"])) == (WHOLE, len(item.target), True)


def test_the_gradient_of_every_part_against_float64(backbone: Backbone) -> None:
    module = random_lora(backbone, seed=1)
    merged = Merged(backbone, module)
    merged.cross_entropy(encoded(backbone)).backward()
    squared: dict[str, float] = defaultdict(float)
    for name, leaf in merged.leaves.items():
        assert leaf.grad is not None
        squared[part_name(part_of(backbone.model.config.model_type, name))] += leaf.grad.pow(2).sum().item()
    kinds = {name.rpartition(".")[2] for name in squared}
    assert kinds == {"attention", "feed_forward"} | ({"cross_attention"} if backbone.seq2seq else set())

    asked = ["grand", "grand:sublayer=attention", "grand:block=1", "grand:block=1,sublayer=feed_forward"]
    found = score_table([module], REVIEWS, backbone, indicators=asked)
    tokens = sum(len(item.target) for item in encoded(backbone))
    assert set(found.rows["example"]) == {-1}
    assert set(found.rows["tokens"]) == {tokens}
    parts = found.rows[found.rows["indicator"] == "grand"].set_index("part")["value"]
    assert dict(parts.drop(WHOLE)) == pytest.approx(
        {name: -math.sqrt(value) for name, value in squared.items()}, rel=2e-4
    )
    values = found.reduce("sum").values
    for text, takes in zip(
        asked,
        (
            lambda part: True,
            lambda part: part.endswith(".attention"),
            lambda part: ".1." in part,
            lambda part: part.endswith(".1.feed_forward"),
        ),
        strict=True,
    ):
        wanted = -math.sqrt(sum(value for part, value in squared.items() if takes(part)))
        assert values[text][0] == pytest.approx(wanted, rel=2e-4), text


def test_one_backward_pass_gives_all_parts(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    run = torch.autograd.backward
    monkeypatch.setattr(torch.autograd, "backward", lambda *args, **more: (calls.append(1), run(*args, **more))[1])
    asked = ["grand", *(f"grand:block={block}" for block in range(2)), "grand:sublayer=attention"]
    score(REFERENCE := [random_lora(llama, seed=1)], REVIEWS, llama, indicators=["grand"])
    once = len(calls)
    score(REFERENCE, REVIEWS, llama, indicators=asked)
    assert len(calls) == 2 * once


def test_a_part_without_parameters_has_no_value(llama: Backbone, modules: list[LoraModule]) -> None:
    found = score(modules[:1], REVIEWS, llama, indicators=["grand:block=7"])
    assert math.isnan(found.values["grand:block=7"][0])
    assert "none of its parameters is in the requested part" in found.reasons["grand:block=7"][modules[0].name]


def test_an_unknown_architecture_has_no_parts(
    llama: Backbone, modules: list[LoraModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "architecture_of", lambda *_: None)
    found = score_table(modules[:1], REVIEWS, llama, indicators=["grand", "grand:sublayer=attention"])
    assert math.isfinite(found.reduce().values["grand"][0])
    assert found.reasons() == {
        "grand:sublayer=attention": {modules[0].name: "the parts of this backbone's architecture are not known"}
    }


def test_cut_and_joined_it_is_the_same(llama: Backbone, modules: list[LoraModule]) -> None:
    whole = score_table(modules, REVIEWS, llama, indicators=["loss", "grand"])
    joined = ScoreTable.concat([whole.of([module.name]) for module in modules])
    assert joined.reduce() == whole.reduce()
    assert repr(whole) == f"ScoreTable(7 modules by loss, grand; {whole.tokens} target tokens of 6 examples)"
    with pytest.raises(SettingError, match="the table has no module 'gone'; choose one of: random-0"):
        whole.of(["gone"])
    with pytest.raises(SettingError, match="two modules are called 'random-0'; rename one of them"):
        ScoreTable.concat([whole, whole])
    other = score_table(modules[:1], REVIEWS[:2], llama, indicators=["loss", "grand"])
    with pytest.raises(SettingError, match="score by the same indicators and examples"):
        ScoreTable.concat([whole, other])


def test_two_of_one_name_are_refused(llama: Backbone, modules: list[LoraModule]) -> None:
    with pytest.raises(SettingError, match="two modules are called 'random-0'; rename one of them"):
        score(modules[:1] * 2, REVIEWS, llama)


def test_a_stack_is_as_wide_as_its_members_allow(
    llama: Backbone, modules: list[LoraModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    run = Backbone.target_logits

    def spy(self, batch, *, modules=1):
        seen.append((modules, len(batch.indices)))
        return run(self, batch, modules=modules)

    monkeypatch.setattr(Backbone, "target_logits", spy)
    score([random_lora(llama, seed=20, rank=5, name="lonely")], REVIEWS, llama, budget=400)
    alone = list(seen)
    seen.clear()
    several = [*modules, random_lora(llama, seed=20, rank=5, name="lonely")]
    score(several, REVIEWS, llama, budget=400)
    # Of two shapes with 4 and 3 modules and one with 1, the single one reads as many examples at once as by itself.
    assert {width for width, _ in seen} == {4, 3, 1}
    assert [pass_ for pass_ in seen if pass_[0] == 1] == alone


def test_stacks_of_one_shape_are_about_equally_wide(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "MOST_MODULES", 4)
    widths: set[int] = set()
    run = passes.run_stack
    monkeypatch.setattr(
        "headstart.indicators.run.run_stack",
        lambda work, stack, *rest, **more: (widths.add(len(stack)), run(work, stack, *rest, **more))[1],
    )
    score([random_lora(llama, seed=seed) for seed in range(9)], REVIEWS[:1], llama)
    assert widths == {3}


def test_the_references_predictions_are_held_in_bounds(
    llama: Backbone, modules: list[LoraModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    parted = "hidden_cosine:sublayer=attention"
    asked = [*BY_TOKEN, "grand", "tupate", parted]
    whole = score_table(modules, REVIEWS, llama, indicators=asked, reference=modules[0])
    expected = whole.reduce()
    vocabulary = llama.model.config.vocab_size
    most = 4 * vocabulary * max(len(item.target) for item in encoded(llama))  # one example at a time
    monkeypatch.setattr(passes, "MOST_REFERENCE_BYTES", most)
    held: list[int] = []
    run = passes.Workload.expected

    def spy(self, reference, sweep):
        expected = run(self, reference, sweep)
        held.append(sum(value.untyped_storage().nbytes() for value in expected.log_p.values()))
        return expected

    monkeypatch.setattr(passes.Workload, "expected", spy)
    for chosen in (asked, ["kl"], ["kl", "grand"], ["tupate", "kl"], ["kl", parted]):
        held.clear()
        rows = score_table(modules, REVIEWS, llama, indicators=chosen, reference=modules[0])
        found = rows.reduce()
        assert len(held) > 3
        assert 0 < max(held) <= most
        for name in chosen:
            assert found.values[name] == pytest.approx(expected.values[name], rel=1e-4, abs=1e-6, nan_ok=True), name
        assert found.reasons == {name: why for name, why in expected.reasons.items() if name in chosen}
        by_part = [means_of_parts(each, parted) for each in (rows, whole)]
        assert by_part[0] == (pytest.approx(by_part[1], rel=1e-4) if parted in chosen else {})


def means_of_parts(table: ScoreTable, indicator: str) -> dict[tuple[str, str], float]:
    """The value of each part, for each module: over all examples together, so there is one."""
    parts = table.rows[(table.rows["indicator"] == indicator) & (table.rows["part"] != WHOLE)]
    assert not parts.duplicated(["module", "part", "example"]).any()
    return {(str(row.module), str(row.part)): float(row.value) for row in parts.itertuples()}  # type: ignore[arg-type]


@dataclass
class Source:
    """Reads a saved module."""

    folder: Path
    card: ModuleCard
    error: str = ""

    @property
    def digest(self) -> str:
        return self.card.name

    def read(self) -> StoredModule:
        if self.error:
            raise ModuleError(self.error)
        return read_module(self.folder)


def lazy(module: LoraModule, folder: Path, backbone: Backbone, **more: Any) -> LazyModule:
    save_module(module, folder / module.name)
    source = Source(folder / module.name, module.card, **more)
    return LazyModule(source, module.card, LoraModule, module.stack_key, backbone.fingerprint)


def test_lazy_modules_are_read_a_stack_at_a_time(
    llama: Backbone, modules: list[LoraModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "MOST_MODULES", 2)
    asked = ["loss", "grand", "tupate"]
    expected = score(modules, REVIEWS, llama, indicators=asked, reference=modules[0])
    given: list[weakref.ref[LoraModule]] = []
    made = LoraModule.from_stored.__func__

    def remembered(cls: type[LoraModule], stored: StoredModule) -> LoraModule:
        module = made(cls, stored)
        given.append(weakref.ref(module))
        return module

    monkeypatch.setattr(LoraModule, "from_stored", classmethod(remembered))
    most = 0

    def listen(_: object) -> None:
        nonlocal most
        gc.collect()
        most = max(most, sum(one() is not None for one in given))

    stored = [lazy(module, tmp_path, llama) for module in modules]
    found = score(stored, REVIEWS, llama, indicators=asked, reference=modules[0], progress=listen)
    for name in asked:
        assert found.values[name] == pytest.approx(expected.values[name], rel=1e-5, nan_ok=True)
    assert len(given) == len(modules), "read once, although parameters and predictions are asked for"
    assert 1 <= most <= 2


def test_a_lazy_module_that_cannot_be_read_has_a_reason(
    llama: Backbone, modules: list[LoraModule], tmp_path: Path
) -> None:
    events: list[Any] = []
    gone = lazy(modules[2], tmp_path, llama, error="it is gone; add it again")
    several = [lazy(modules[0], tmp_path, llama), gone, lazy(modules[4], tmp_path, llama)]
    found = score(several, REVIEWS, llama, indicators=["loss", "cosine"], progress=events.append)
    assert [math.isnan(value) for value in found.values["loss"]] == [False, True, False]
    assert found.reasons == {name: {modules[2].name: "it is gone; add it again"} for name in ("loss", "cosine")}
    assert (events[-1].done, events[-1].total) == (18, 18)


def test_threads_give_what_one_pass_after_the_other_gives(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    several = [random_lora(backbone, seed=seed) for seed in range(3)]
    asked = [*BY_TOKEN, "tupate"]
    names: set[str] = set()
    second = threading.Event()
    run = Backbone.target_logits

    def spy(self: Backbone, batch: TargetBatch, *, modules: int = 1) -> torch.Tensor:
        if (name := threading.current_thread().name).startswith("headstart-pass"):
            names.add(name)
            if len(names) > 1:
                second.set()
            second.wait(timeout=10)  # or a single thread might be done with all batches before another begins
        return run(self, batch, modules=modules)

    monkeypatch.setattr(passes, "usual_workers", lambda _: 1)
    expected = score_table(several, REVIEWS, backbone, indicators=asked, reference=several[0], budget=60)
    monkeypatch.setattr(Backbone, "target_logits", spy)
    monkeypatch.setattr(passes, "usual_workers", lambda _: 3)
    before = torch.get_num_threads()
    found = score_table(several, REVIEWS, backbone, indicators=asked, reference=several[0], budget=60)
    assert torch.get_num_threads() == before
    assert len(names) > 1
    pd.testing.assert_frame_equal(found.rows, expected.rows, rtol=1e-5, atol=1e-6)


def test_an_error_ends_the_threads(llama: Backbone, modules: list[LoraModule], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "usual_workers", lambda _: 2)
    before, photographed = torch.get_num_threads(), photograph(llama)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(modules, REVIEWS, llama, indicators=["loss"], budget=60, progress=stop)
    assert torch.get_num_threads() == before
    assert not [one for one in threading.enumerate() if one.name.startswith("headstart-pass")]
    assert_untouched(llama, photographed)
