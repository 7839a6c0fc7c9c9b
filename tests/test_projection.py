"""Projection indicators: one pass of the bare backbone for all modules, against float64 and an explicit SVD."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from encoder_tasks import a_task
from encoders import CARDS, encoder, random_module
from headstart.backbones import Backbone
from headstart.events import Event, Progress
from headstart.indicators import Need, ProjectionIndicator, make_indicator
from headstart.indicators import run as engine_module
from headstart.indicators.engine import score, score_table
from headstart.indicators.projection import own_basis, right_vectors, sizes
from headstart.kinds import (
    AdapterModule,
    AdapterSettings,
    BitFitModule,
    BitFitSettings,
    IA3Module,
    IA3Settings,
    LoraModule,
    LoraSettings,
    Module,
    PrefixModule,
    PrefixSettings,
    PromptModule,
    PromptSettings,
)
from headstart.kinds.updates import LowRank, Scaling, Update
from headstart.ranking.rank import rank
from headstart.tasks import Task, head_of
from naive import BACKBONES, REVIEWS, TARGETS, Merged, assert_untouched, encoded, load, photograph, random_lora

PROJECTIONS = ("arrow", "spectral")


def projection(name: str) -> ProjectionIndicator:
    found = make_indicator(name)
    assert isinstance(found, ProjectionIndicator)
    return found


def per_token(name: str, updates: Sequence[Update], x: Tensor) -> list[list[float]]:
    indicator = projection(name)
    return indicator.per_token(indicator.prepare(updates), x).tolist()


# ΔW = diag(3, 4)·(1 0; 0 1)·… = (3 0; 0 4): singular values 4 and 3, v = (0, 1), ‖ΔW‖_F = 5.
PLAIN = LowRank(torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
X = torch.tensor([[1.0, 2.0], [1.0, 0.0]])


def test_arrow_by_hand() -> None:
    # |x·v| with v = (0, 1): 2 for x = (1, 2), 0 for x = (1, 0).
    assert per_token("arrow", [PLAIN], X) == [[pytest.approx(2.0)], [pytest.approx(0.0, abs=1e-6)]]


def test_spectral_by_hand() -> None:
    # ‖(3, 8)‖ / (5·√5) = √73 / √125, and ‖(3, 0)‖ / (5·1) = 3/5.
    assert per_token("spectral", [PLAIN], X) == [[pytest.approx(math.sqrt(73 / 125))], [pytest.approx(0.6)]]


def test_a_scaling_by_hand() -> None:
    # diag(3, −4): v is the second axis; ‖(3, −8)‖ / (5·√5) is the same as above.
    scaling = Scaling(torch.tensor([3.0, -4.0]), after=True)
    assert per_token("arrow", [scaling], X) == [[pytest.approx(2.0)], [pytest.approx(0.0)]]
    assert per_token("spectral", [scaling], X) == [[pytest.approx(math.sqrt(73 / 125))], [pytest.approx(0.6)]]


def test_token_ids_are_one_hot_vectors() -> None:
    # The columns of ΔW have lengths 3 and 4; each one-hot vector has length 1.
    ids = torch.tensor([1, 0, 1])
    assert per_token("spectral", [PLAIN], ids) == [[pytest.approx(0.8)], [pytest.approx(0.6)], [pytest.approx(0.8)]]
    assert per_token("arrow", [PLAIN], ids) == [[pytest.approx(v, abs=1e-6)] for v in (1.0, 0.0, 1.0)]


@pytest.mark.parametrize("shape", [(6, 3, 9), (9, 3, 6), (2, 4, 7), (5, 1, 5)], ids=str)
def test_the_algebra_against_an_svd_of_the_update(shape: tuple[int, int, int]) -> None:
    out, rank, inputs = shape
    drawn = torch.Generator().manual_seed(1)
    updates = [
        LowRank(torch.randn(rank, inputs, generator=drawn), torch.randn(out, rank, generator=drawn)) for _ in range(4)
    ]
    x = torch.randn(5, inputs, generator=drawn)
    for index, (down, up) in enumerate(updates):
        whole = up.double() @ down.double()
        _, _, right = torch.linalg.svd(whole)
        top = right_vectors(updates)[index].double()
        assert abs(float(top @ right[0])) == pytest.approx(1.0, abs=1e-6)
        assert float(sizes(updates)[index]) == pytest.approx(float(whole.norm()))
        found = (x @ own_basis(updates)[index].T).norm(dim=1)
        assert found.tolist() == pytest.approx(((x.double() @ whole.T).norm(dim=1) / whole.norm()).tolist(), rel=1e-5)


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load(request.getfixturevalue(request.param))


def activations(backbone: Backbone, paths: Sequence[str]) -> list[dict[str, Tensor]]:
    """What each layer reads, (tokens, D), float64, for every example by itself, without any padding."""
    model = Merged(backbone, None).model
    found: list[dict[str, Tensor]] = []
    for item in encoded(backbone):
        seen: dict[str, Tensor] = {}

        def take(path: str, _: torch.nn.Module, args: tuple[Tensor, ...], seen: dict[str, Tensor] = seen) -> None:
            seen[path] = args[0].flatten(0, -2)

        handles = [model.get_submodule(path).register_forward_pre_hook(partial(take, path)) for path in paths]
        if backbone.seq2seq:
            decoder = torch.tensor([[model.config.decoder_start_token_id, *item.target[:-1]]])
            model(input_ids=torch.tensor([item.prompt]), decoder_input_ids=decoder)
        else:
            model(input_ids=torch.tensor([item.prompt + item.target[:-1]]))
        for handle in handles:
            handle.remove()
        found.append(seen)
    return found


def naive(module: LoraModule, seen: Mapping[str, Tensor]) -> dict[str, float]:
    """Both values of one example, layer by layer and token by token, from an explicit SVD of ΔW."""
    by_layer: dict[str, list[float]] = {name: [] for name in PROJECTIONS}
    for path, factor in module.factors.items():
        whole = factor.scaling * factor.b.double() @ factor.a.double()
        _, _, right = torch.linalg.svd(whole)
        arrow = [abs(float(x @ right[0])) for x in seen[path]]
        spectral = [float((whole @ x).norm() / whole.norm() / x.norm()) for x in seen[path]]
        by_layer["arrow"].append(sum(arrow) / len(arrow))
        by_layer["spectral"].append(sum(spectral) / len(spectral))
    return {name: sum(values) / len(values) for name, values in by_layer.items()}


def mixed(backbone: Backbone) -> list[LoraModule]:
    """Modules of two ranks, and one that adapts only one sort of layer."""
    fresh = LoraModule.fresh(backbone, LoraSettings(2, 4.0, TARGETS[backbone.name][:1]), name="fewer", seed=0)
    drawn = torch.Generator().manual_seed(5)
    fewer = fresh.with_parameters({k: torch.randn(v.shape, generator=drawn) for k, v in fresh.parameters().items()})
    return [random_lora(backbone, seed=1), random_lora(backbone, seed=2, rank=2), fewer, random_lora(backbone, seed=3)]


@pytest.mark.parametrize("budget", [None, 1, 60])
def test_every_example_against_float64(backbone: Backbone, budget: int | None) -> None:
    modules = mixed(backbone)
    before = photograph(backbone)
    table = score_table(modules, REVIEWS, backbone, indicators=PROJECTIONS, budget=budget)
    assert_untouched(backbone, before)
    seen = activations(backbone, list(modules[0].factors))
    rows = table.rows.set_index(["module", "indicator", "example"])
    for module in modules:
        for example, own in enumerate(seen):
            for name, wanted in naive(module, own).items():
                row = rows.loc[(module.name, name, example)]
                assert row["value"] == pytest.approx(wanted, rel=1e-4), (module.name, name, example)
                assert row["tokens"] == 1
    mean, total = table.reduce("mean"), table.reduce("sum")
    for name in PROJECTIONS:
        wanted = [sum(naive(module, own)[name] for own in seen) for module in modules]
        assert total.values[name] == pytest.approx(wanted, rel=1e-4)
        assert mean.values[name] == pytest.approx([value / len(seen) for value in wanted], rel=1e-4)
        assert len(set(total.values[name])) == len(modules)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of rows of every pass of any backbone's model."""
    seen: list[int] = []
    target_logits = Backbone.target_logits

    def counted(self: Backbone, batch, *, modules: int = 1) -> Tensor:  # type: ignore[no-untyped-def]
        seen.append(modules * len(batch.indices))
        return target_logits(self, batch, modules=modules)

    monkeypatch.setattr(Backbone, "target_logits", counted)
    return seen


def test_one_pass_serves_every_module(llama: Backbone, reads: list[int]) -> None:
    modules = [random_lora(llama, seed=seed, rank=2 + seed % 3) for seed in range(40)]
    score(modules[:1], REVIEWS, llama, indicators=PROJECTIONS)
    alone = sum(reads)
    reads.clear()
    score(modules, REVIEWS, llama, indicators=PROJECTIONS)
    assert sum(reads) == alone == len(REVIEWS)


def test_modules_that_do_not_fit_into_memory_get_another_pass(
    llama: Backbone, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [random_lora(llama, seed=seed, rank=2 + seed % 3) for seed in range(9)]
    expected = score(modules, REVIEWS, llama, indicators=PROJECTIONS)
    reads.clear()
    monkeypatch.setattr(engine_module, "MOST_HELD_BYTES", 1)
    monkeypatch.setattr(engine_module, "MOST_PREPARED", 2)
    found = score(modules, REVIEWS, llama, indicators=PROJECTIONS)
    assert sum(reads) == 6 * len(REVIEWS)  # three ranks of three modules each, in groups of two and one
    for name in PROJECTIONS:
        assert found.values[name] == pytest.approx(expected.values[name], rel=1e-6)


def test_company_order_and_sign_do_not_matter(llama: Backbone) -> None:
    modules = mixed(llama)
    expected = score(modules, REVIEWS, llama, indicators=PROJECTIONS)
    turned = [
        replace(module, factors={path: f._replace(a=-3 * f.a) for path, f in module.factors.items()})
        for module in reversed(modules)
    ]
    found = score(turned, REVIEWS, llama, indicators=["spectral", "cosine", "arrow"])
    for name in PROJECTIONS:
        assert found.values[name][::-1] == pytest.approx(expected.values[name], rel=1e-5)


def ia3(backbone: Backbone) -> IA3Module:
    fresh = IA3Module.fresh(backbone, IA3Settings(), name="ia3", seed=0)
    drawn = torch.Generator().manual_seed(4)
    return fresh.with_parameters({k: 1 + torch.randn(v.shape, generator=drawn) for k, v in fresh.parameters().items()})


def test_ia3_reads_what_it_scales(llama: Backbone) -> None:
    module = ia3(llama)
    table = score_table([module, random_lora(llama, seed=1)], REVIEWS, llama, indicators=PROJECTIONS)
    outputs = {path for path in module.vectors if path not in module.inputs}
    assert outputs
    assert module.inputs
    item, model = encoded(llama)[0], Merged(llama, None).model
    values: dict[str, list[float]] = {name: [] for name in PROJECTIONS}

    def take(path: str, rows: Tensor) -> None:
        change = module.vectors[path].double() - 1
        axis = int(change.abs().argmax())
        values["arrow"].append(float(rows[:, axis].abs().mean()))
        values["spectral"].append(float(((rows * change).norm(dim=1) / change.norm() / rows.norm(dim=1)).mean()))

    for path in module.vectors:
        model.get_submodule(path).register_forward_hook(
            lambda _, args, output, path=path: take(path, (args[0] if path in module.inputs else output).flatten(0, -2))
        )
    model(input_ids=torch.tensor([item.prompt + item.target[:-1]]))
    for name, found in values.items():
        rows = table.rows
        row = rows[(rows["module"] == "ia3") & (rows["indicator"] == name) & (rows["example"] == 0)]
        assert row["value"].item() == pytest.approx(sum(found) / len(found), rel=1e-4)


def others(backbone: Backbone) -> list[Module]:
    return [
        AdapterModule.fresh(backbone, AdapterSettings(), name="adapter", seed=0),
        PrefixModule.fresh(backbone, PrefixSettings(), name="prefix", seed=0),
        PromptModule.fresh(backbone, PromptSettings(), name="prompt", seed=0),
    ]


def test_other_kinds_say_why_there_is_no_value(llama: Backbone, gpt2: Backbone) -> None:
    found = score([*others(llama), random_lora(llama, seed=1)], REVIEWS, llama, indicators=PROJECTIONS)
    for name in PROJECTIONS:
        for kind in ("adapter", "prefix", "prompt"):
            assert found.reasons[name][kind] == (
                f"what a {kind} module adds is not a linear map of the bare backbone's activations; "
                "use an indicator that runs the module"
            )
        assert math.isfinite(found.values[name][3])
    bitfit = BitFitModule.fresh(gpt2, BitFitSettings(), name="biases", seed=0)
    reason = score([bitfit], REVIEWS, gpt2, indicators=["arrow"]).reasons["arrow"]["biases"]
    assert reason.startswith("'biases' is a bitfit module, which adds the same to every token")


def test_an_update_of_zero_has_no_direction(llama: Backbone) -> None:
    fresh = LoraModule.fresh(llama, LoraSettings(2, 4.0, TARGETS[llama.name]), name="fresh", seed=0)
    found = score([fresh, random_lora(llama, seed=1)], REVIEWS, llama, indicators=PROJECTIONS)
    for name in PROJECTIONS:
        assert found.reasons[name] == {"fresh": engine_module.NO_UPDATE}


def test_progress_counts_every_module(llama: Backbone) -> None:
    heard: list[Event] = []
    modules = [*others(llama), random_lora(llama, seed=1)]
    score(modules, REVIEWS, llama, indicators=["arrow", "loss"], progress=heard.append)
    steps = [event for event in heard if isinstance(event, Progress)]
    assert (steps[-1].done, steps[-1].total) == (2 * len(modules) * len(REVIEWS),) * 2


def test_needs() -> None:
    assert all(projection(name).needs == {Need.BASE_PASS} for name in PROJECTIONS)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("task", ["classification", "regression", "span"])
def test_an_encoder_needs_neither_a_head_nor_a_reference(family: str, task: str) -> None:
    encoder_backbone, data = encoder(family), a_task(task)
    modules = [random_module(encoder_backbone, None, seed=seed, name=f"m{seed}") for seed in (1, 2)]
    found = score(modules, data.dev, encoder_backbone, indicators=PROJECTIONS)
    headed = [random_module(encoder_backbone, CARDS[task], seed=seed, name=f"m{seed}") for seed in (1, 2)]
    like = random_module(encoder_backbone, head_of(data.card), seed=50, name="reference")
    beside = score(headed, data.dev, encoder_backbone, indicators=[*PROJECTIONS, "loss"], reference=like)
    for name in PROJECTIONS:
        assert all(map(math.isfinite, found.values[name]))
        assert beside.values[name] == pytest.approx(found.values[name], rel=1e-5)


def test_a_ranking_of_many_modules_reads_the_examples_once(llama: Backbone, reads: list[int]) -> None:
    modules = [random_lora(llama, seed=seed) for seed in range(140)]
    rows = [{"input": f"film {i} is {word}", "output": word} for i, word in enumerate(["good", "bad"] * 4)]
    task = Task.from_rows(splits={"train": rows, "dev": rows}, name="films", metric="ACC", labels=["good", "bad"])
    found = rank(task, modules, llama, indicators=PROJECTIONS, store=False)
    assert (sum(reads), found.reference) == (len(rows), None)
    assert all(math.isfinite(value) for name in PROJECTIONS for value in found.scores.values[name])
