"""Indicators of parameters, hidden states, options and short tunings, by hand and against float64."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from encoder_tasks import STYLE, a_task
from encoders import CARDS, TASKS, encoder, random_module
from headstart.architectures import Part
from headstart.backbones import Backbone
from headstart.indicators import (
    INDICATORS,
    WHOLE,
    ParameterIndicator,
    TokenIndicator,
    TokenStatistics,
    Trial,
    TuningIndicator,
    make_indicator,
)
from headstart.indicators.engine import FAMILIES, score, score_table
from headstart.kinds import LoraModule
from headstart.ranking.rank import rank
from headstart.ranking.scoring import Scoring
from headstart.tasks import Example, Task, head_of
from headstart.tuning.recipes import RECIPES
from naive import BACKBONES, REVIEWS, TARGETS, Merged, assert_untouched, encoded, load, photograph, random_lora

FIRST, SECOND = Part("decoder", 0, "attention"), Part("decoder", 1, "feed_forward")


def by_part(spec: str, own: dict[str, Tensor], other: dict[str, Tensor], parts: dict[str, Part]) -> dict[str, float]:
    indicator = make_indicator(spec)
    assert isinstance(indicator, ParameterIndicator)
    return dict(indicator.by_part(own, other, parts))


OWN = {"layers.0.q.a": torch.tensor([[3.0, 4.0]]), "layers.1.mlp.a": torch.tensor([[0.0]])}
OTHER = {"layers.0.q.a": torch.tensor([[0.0, 4.0]]), "layers.1.mlp.a": torch.tensor([[2.0]])}
PARTS = {"layers.0.q.a": FIRST, "layers.1.mlp.a": SECOND}


def test_weight_cosine_by_hand() -> None:
    # (3, 4, 0)·(0, 4, 2) = 16; lengths 5 and √20. In the first block alone 16 / (5·4); the second has a side of 0.
    found = by_part("weight_cosine", OWN, OTHER, PARTS)
    assert found[WHOLE] == pytest.approx(16 / (5 * math.sqrt(20)))
    assert found["decoder.0.attention"] == pytest.approx(0.8)
    assert math.isnan(found["decoder.1.feed_forward"])
    assert by_part("weight_cosine:block=0", OWN, OTHER, PARTS)[WHOLE] == pytest.approx(0.8)
    assert by_part("weight_cosine:sublayer=cross_attention", OWN, OTHER, PARTS) == {}


def test_euclidean_by_hand() -> None:
    # Layer 0 moved by (3, 0), layer 1 by 2: −(3 + 2), not −√13; a parameter in no layer is a layer of its own.
    assert by_part("euclidean", OWN, OTHER, PARTS)[WHOLE] == pytest.approx(-5.0)
    assert by_part("euclidean:block=1", OWN, OTHER, PARTS)[WHOLE] == pytest.approx(-2.0)
    more = {"prompt": torch.tensor([5.0])}
    parts = PARTS | {"prompt": Part(None, None, None)}
    found = by_part("euclidean:m=7", OWN | more, OTHER | {"prompt": torch.tensor([1.0])}, parts)
    assert found == pytest.approx(
        {WHOLE: -9.0, "decoder.0.attention": -3.0, "decoder.1.feed_forward": -2.0, "other": -4.0}
    )


def test_performance_by_hand(llama: Backbone) -> None:
    indicator = make_indicator("performance:m=20")
    assert isinstance(indicator, TuningIndicator)
    assert indicator.m == 20
    assert indicator.from_trial(Trial(random_lora(llama, seed=1), before=0.25, best=0.75)) == 0.5


def test_entropy_by_hand() -> None:
    # Σ p log p of (1/2, 1/4, 1/4) is −(½ log 2 + ½ log 4) = −1.5 log 2; of three equal words −log 3.
    logits = torch.stack([torch.tensor([0.5, 0.25, 0.25]).log(), torch.zeros(3)]).unsqueeze(0)
    indicator = make_indicator("entropy")
    assert isinstance(indicator, TokenIndicator)
    found = indicator.per_token(TokenStatistics(logits, torch.tensor([0, 1])))
    assert found[0].tolist() == pytest.approx([-1.5 * math.log(2), -math.log(3)])


# Hidden states


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load(request.getfixturevalue(request.param))


PATHS = {  # the outputs of the second block, and of the feed-forward in both blocks of the decoder
    "tiny-llama": ("model.layers.1", ("model.layers.0.mlp", "model.layers.1.mlp")),
    "tiny-gpt2": ("transformer.h.1", ("transformer.h.0.mlp", "transformer.h.1.mlp")),
    "tiny-t5": (
        "decoder.block.1", ("decoder.block.0.layer.2.DenseReluDense", "decoder.block.1.layer.2.DenseReluDense"),
    ),
}  # fmt: skip


def outputs(backbone: Backbone, module: LoraModule, paths: Sequence[str]) -> list[list[Tensor]]:
    """By example, what each path gives where target tokens are predicted, (tokens, D); path "" is the head's input."""
    merged = Merged(backbone, module)
    found = []
    for item in encoded(backbone):
        seen: dict[str, Tensor] = {}

        def keep(path: str, _: nn.Module, args: object, output: object, seen: dict[str, Tensor] = seen) -> None:
            value = args if path == "" else output
            seen[path] = value[0] if isinstance(value, tuple) else value  # type: ignore[assignment]

        layers = {path: merged.model.get_submodule(path) for path in paths if path}
        layers |= {"": merged.model.get_output_embeddings()} if "" in paths else {}
        handles = [layer.register_forward_hook(partial(keep, path)) for path, layer in layers.items()]
        merged.logits(item)
        for handle in handles:
            handle.remove()
        start = 0 if backbone.seq2seq else len(item.prompt) - 1
        found.append([seen[path][0, start : start + len(item.target)].detach() for path in paths])
    return found


def naive_cosine(own: list[list[Tensor]], other: list[list[Tensor]]) -> list[float]:
    """By example, the mean over sites of the mean over tokens."""
    found = []
    for row, wanted in zip(own, other, strict=True):
        sites = []
        for states, compared in zip(row, wanted, strict=True):
            cosines = [float(a @ b / a.norm() / b.norm()) for a, b in zip(states, compared, strict=True)]
            sites.append(sum(cosines) / len(cosines))
        found.append(sum(sites) / len(sites))
    return found


@pytest.mark.parametrize("budget", [None, 1])
def test_hidden_cosine_against_float64(backbone: Backbone, budget: int | None) -> None:
    modules = [random_lora(backbone, seed=seed, rank=1 + seed) for seed in (1, 2)]
    reference = random_lora(backbone, seed=9)
    block, feed_forwards = PATHS[backbone.name]
    stack = ",stack=decoder" if backbone.seq2seq else ""
    sites = {
        "hidden_cosine": ("",),
        f"hidden_cosine:block=1{stack}": (block,),
        f"hidden_cosine:{stack[1:] + ',' if stack else ''}sublayer=feed_forward": feed_forwards,
    }
    before = photograph(backbone)
    table = score_table(modules, REVIEWS, backbone, indicators=list(sites), reference=reference, budget=budget)
    assert_untouched(backbone, before)
    for spec, paths in sites.items():
        wanted = outputs(backbone, reference, paths)
        for module in modules:
            rows = table.rows[(table.rows["module"] == module.name) & (table.rows["part"] == WHOLE)]
            found = rows[rows["indicator"] == str(make_indicator(spec).spec)].sort_values("example")["value"]
            assert found.tolist() == pytest.approx(naive_cosine(outputs(backbone, module, paths), wanted), abs=2e-5)


def test_hidden_cosine_in_an_encoder_half(backbone: Backbone) -> None:
    if not backbone.seq2seq:
        reference = random_lora(backbone, seed=9)
        asked = ["hidden_cosine:stack=encoder", "hidden_cosine:block=7"]
        found = score([random_lora(backbone, seed=1)], REVIEWS, backbone, indicators=asked, reference=reference)
        assert all(why == {"random-1": "this backbone has no such part"} for why in found.reasons.values())
        return
    module, reference = random_lora(backbone, seed=1), random_lora(backbone, seed=9)
    wanted = []
    for item in encoded(backbone):
        means = []
        for one in (module, reference):
            merged, seen = Merged(backbone, one), list[Tensor]()
            merged.model.get_submodule("encoder.block.1").register_forward_hook(
                lambda _, __, output, seen=seen: seen.append(output[0] if isinstance(output, tuple) else output)
            )
            merged.logits(item)
            means.append(seen[0][0].mean(0).detach())
        wanted.append(float(means[0] @ means[1] / means[0].norm() / means[1].norm()))
    table = score_table(
        [module], REVIEWS, backbone, indicators="hidden_cosine:block=1,stack=encoder", reference=reference
    )
    assert table.rows.sort_values("example")["value"].tolist() == pytest.approx(wanted, abs=2e-5)


def test_a_module_is_like_itself(llama: Backbone) -> None:
    modules = [random_lora(llama, seed=seed) for seed in (1, 2)]
    asked = ["hidden_cosine", "hidden_cosine:sublayer=attention", "weight_cosine"]
    found = score(modules, REVIEWS, llama, indicators=asked, reference=modules[1])
    for values in found.values.values():
        assert values[1] == pytest.approx(1.0)
        assert values[0] < 0.999


def test_parameters_of_other_shapes_are_not_compared(llama: Backbone) -> None:
    found = score(
        [random_lora(llama, seed=1, rank=2)], REVIEWS, llama, indicators=["weight_cosine"],
        reference=replace(random_lora(llama, seed=9), card=random_lora(llama, seed=9, name="Õ").card),
    )  # fmt: skip
    (reason,) = found.reasons["weight_cosine"].values()
    assert reason.endswith("so it is not comparable")
    assert "is 2×" in reason
    assert "'Õ'" in reason


# Options


def naive_accuracy(backbone: Backbone, module: LoraModule, row: Example) -> float:
    merged, options = Merged(backbone, module), row.options or ()
    pairs = backbone.encode([(row.input, option) for option in options], STYLE)
    likelihoods = []
    for item in pairs:
        log_p = merged.logits(item).detach().log_softmax(-1)
        likelihoods.append(float(log_p[torch.arange(len(item.target)), torch.tensor(item.target)].sum()))
    return float(options[likelihoods.index(max(likelihoods))] in row.outputs)


def test_option_accuracy_against_float64(backbone: Backbone) -> None:
    words = ("warm film", "dull", "tired mess never")
    rows = [Example(row.input, (words[i % 3],), words[: 2 + i % 2]) for i, row in enumerate(REVIEWS)]
    modules = [random_lora(backbone, seed=seed, size=0.6) for seed in (1, 2, 3)]
    table = score_table(modules, rows, backbone, indicators=["option_accuracy", "loss"], text_format=STYLE)
    rowwise = table.rows[table.rows["indicator"] == "option_accuracy"]
    for module in modules:
        found = rowwise[rowwise["module"] == module.name].sort_values("example")["value"].tolist()
        assert found == [naive_accuracy(backbone, module, row) for row in rows]
    alone = score(modules, rows, backbone, indicators=["option_accuracy"], text_format=STYLE)
    assert alone.values["option_accuracy"] == table.reduce().values["option_accuracy"]
    assert 0 < sum(alone.values["option_accuracy"]) < len(modules), "it must vary for this to say anything"


def test_open_answers_have_no_option_accuracy(llama: Backbone) -> None:
    rows = [Example(row.input, row.outputs) for row in REVIEWS]
    reasons = score([random_lora(llama, seed=1)], rows, llama, indicators="option_accuracy").reasons
    assert reasons == {"option_accuracy": {"random-1": "the example offers no options to choose from"}}


# All together


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The number of modules and rows of every pass that scores."""
    seen: list[tuple[int, int]] = []
    target_logits = Backbone.target_logits

    def counted(self: Backbone, batch, *, modules: int = 1) -> Tensor:  # type: ignore[no-untyped-def]
        seen.append((modules, len(batch.indices)))
        return target_logits(self, batch, modules=modules)

    monkeypatch.setattr(Backbone, "target_logits", counted)
    return seen


def a_small_task() -> Task:
    rows = [{"input": f"film {i} is {word}", "output": word} for i, word in enumerate(["good", "bad"] * 4)]
    return Task.from_rows(splits={"train": rows, "dev": rows}, name="films", metric="ACC", labels=["good", "bad"])


def test_all_indicators_share_one_stacked_pass_one_base_pass_and_their_tunings(
    llama: Backbone, reads: list[tuple[int, int]]
) -> None:
    task, modules = a_small_task(), [random_lora(llama, seed=seed) for seed in (1, 2, 3)]
    specs = [f"{name}:m=2" if name in ("euclidean", "performance") else name for name in INDICATORS]
    recipe = RECIPES["quick"].change(max_steps=2, eval_every=1, warmup_steps=0)
    rows = len(task.dev)
    scoring = Scoring.plan(
        task, modules, llama, indicators=[make_indicator(spec) for spec in specs], recipe=recipe, seed=0
    )
    types = [unit.type for unit in scoring.all_units()]
    assert types.count("tune") == 1 + len(modules)  # the reference module, and each module once for two indicators
    # Scored directly, so that only passes that score are counted.
    trials = {(module.name, 2): Trial(module, 0.0, 0.5) for module in modules}
    found = score(modules, task.dev, llama, indicators=specs, reference=modules[0], trials=trials)
    assert all(math.isfinite(value) for values in found.values.values() for value in values)
    stacked = sum(count for width, count in reads if width == len(modules))
    alone = sum(count for width, count in reads if width == 1)
    assert stacked == 2 * rows  # every row with its target, and with the one option that is not
    assert alone == 2 * rows  # the bare backbone, and the reference module


def test_ranking_by_all_of_them(llama: Backbone) -> None:
    task, modules = a_small_task(), [random_lora(llama, seed=seed) for seed in (1, 2, 3)]
    specs = [f"{name}:m=2" if name in ("euclidean", "performance") else name for name in INDICATORS]
    recipe = RECIPES["quick"].change(max_steps=2, eval_every=1, warmup_steps=0)
    found = rank(task, modules, llama, indicators=specs, recipe=recipe, store=False)
    assert list(found.scores.values) == specs
    assert all(math.isfinite(value) for values in found.scores.values.values() for value in values)
    assert all(value < 0 for value in found.scores.values["euclidean:m=2"])


@pytest.mark.parametrize("task", TASKS)
def test_on_encoders_there_is_a_value_or_a_reason(task: str) -> None:
    bert, data = encoder("bert"), a_task(task)
    like = random_module(bert, head_of(data.card), seed=50, name="reference")
    modules = [random_module(bert, card, seed=seed, name=f"m{seed}") for seed, card in enumerate([CARDS[task], None])]
    specs = [*INDICATORS, "hidden_cosine:block=1", "hidden_cosine:sublayer=attention"]
    trials = {(module.name, 50): Trial(random_module(bert, None, seed=7), 0.0, 0.5) for module in modules}
    found = score(modules, data.dev, bert, indicators=specs, reference=like, trials=trials, text_format=STYLE)
    for name, values in found.values.items():
        for module, value in zip(found.names, values, strict=True):
            assert math.isfinite(value) != bool(found.reasons.get(name, {}).get(module)), (name, module)
    missing = {name for name, values in found.values.items() if not math.isfinite(values[0])}
    distributions = {name for name, family in INDICATORS.items() if family.distribution}
    assert missing == {
        "classification": set(), "regression": distributions,
        "span": {"option_accuracy"},
    }[task]  # fmt: skip


def test_an_indicator_that_tunes_says_where_it_can_be_had(llama: Backbone) -> None:
    with pytest.raises(Exception, match="'performance' tunes every module on the task; use rank, or give trials="):
        score([random_lora(llama, seed=1)], REVIEWS, llama, indicators="performance")


def test_every_indicator_is_of_a_family_of_the_engine() -> None:
    assert all(issubclass(family, FAMILIES) for family in INDICATORS.values())
    assert set(TARGETS) == set(PATHS)
