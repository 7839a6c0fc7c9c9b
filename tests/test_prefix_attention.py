"""Prefixes of the encoder, the decoder and the cross-attention: a naive reference, stacks, folders, what is refused."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MT5Config, MT5ForConditionalGeneration

import made_by_peft
from headstart.backbones import Backbone
from headstart.blending import merge
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.formats.libraries.own_prefix import BIASED_PREFIX, BIASED_TEXT, SITES
from headstart.indicators.engine import score
from headstart.kinds import PrefixModule, fresh_module, load_module, save_module, stacks
from headstart.kinds.prefix_attention import AttentionPrefixModule
from headstart.kinds.prefix_projection import projected
from headstart.kinds.prefix_units import attention_units
from headstart.records import TaskCard
from headstart.tasks import Task
from headstart.testing import check_kind
from headstart.testing.backbones import tiny_backbone
from headstart.tuning.recipes import Recipe
from headstart.tuning.tune import tune
from naive import REVIEWS, assert_close, assert_same_parameters, assert_untouched, load, photograph
from virtual import LENGTH, encoded, random_module

EVERYWHERE = {"encoder": True, "cross_attention": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "encoder": {"encoder": True},
    "pewe": {"encoder": True, "reparametrized": True, "bottleneck": 3},
    "everywhere": EVERYWHERE,
    "cross": {"cross_attention": True, "reparametrized": True, "bottleneck": 3},
}
SIZES = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate",
    "feed_forward_proj", "decoder_start_token_id", "pad_token_id", "eos_token_id", "tie_word_embeddings",
    "scale_decoder_outputs",
)  # fmt: skip
TASK = Task(TaskCard(name="reviews", family="sentiment", metric="ACC"), {"train": REVIEWS, "dev": REVIEWS[:4]})
RECIPE = Recipe(
    name="tiny", lr=5e-2, batch_size=2, max_steps=12, eval_every=6, patience=9, optimizer="adamw", schedule="linear",
    warmup_steps=2, clip=1.0, max_input=64, max_target=8, select="loss", kind="prefix", shape={"length": LENGTH},
)  # fmt: skip


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    return VARIANTS[request.param]


@pytest.fixture(scope="module")
def mt5(t5: Backbone) -> Backbone:
    """The same weights as another family of transformers' has them."""
    model = MT5ForConditionalGeneration(MT5Config(**{k: v for k, v in t5.model.config.to_dict().items() if k in SIZES}))
    model.load_state_dict(t5.model.state_dict())
    return Backbone(model, t5.tokenizer, name="tiny-mt5")


def random_prefix(backbone: Backbone, *, seed: int = 1, **settings: Any) -> AttentionPrefixModule:
    module = random_module("prefix", backbone, seed=seed, **settings)
    assert isinstance(module, AttentionPrefixModule)
    return module


def inputs(backbone: Backbone, modules: int = 1) -> dict[str, Tensor]:
    """Two examples of unequal length, the second padded."""
    ids = torch.tensor([[5, 9, 33, 200, 17, 1], [7, 8, 1, 0, 0, 0]]).clamp(max=len(backbone.tokenizer) - 1)
    decoder = torch.tensor([[0, 9, 4, 30], [0, 12, 44, 7]])
    found = {"input_ids": ids, "attention_mask": (ids != 0).long(), "decoder_input_ids": decoder}
    return {name: value.repeat(modules, 1) for name, value in found.items()}


# What it computes


def attended(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
    """One head of T5's attention, which scales nothing, in float64 query by query: (T, D), (S, D), (T, S) → (T, D)."""
    rows = []
    for query, added, visible in zip(queries, bias, seen, strict=True):
        weights = [
            math.exp(float(query @ key + extra)) if there else 0.0
            for key, extra, there in zip(keys, added, visible, strict=True)
        ]
        rows.append(sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights))
    return torch.stack(rows)


def bucket(distance: int, *, both: bool, buckets: int = 32, farthest: int = 128) -> int:
    """T5's bucket of a key `distance` places behind its query (Raffel et al., 2020, §2.1, as its code has it)."""
    first = 0
    if both:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    if distance < buckets // 2:
        return first + distance
    far = math.log(distance / (buckets // 2)) / math.log(farthest / (buckets // 2)) * (buckets - buckets // 2)
    return first + min(buckets // 2 + int(far), buckets - 1)


@pytest.mark.parametrize("positions", [BIASED_TEXT, BIASED_PREFIX])
@pytest.mark.parametrize("reparametrized", [False, True])
def test_attention_over_prefixes(t5: Backbone, positions: str, reparametrized: bool) -> None:
    modules = [
        random_prefix(t5, seed=seed, reparametrized=reparametrized, bottleneck=3, **EVERYWHERE) for seed in (1, 2)
    ]
    modules = [replace(module, shape=replace(module.shape, relative_positions=positions)) for module in modules]
    given = inputs(t5, 2)
    with torch.inference_mode(), AttentionPrefixModule.stack(modules, t5).attach(t5):
        units = attention_units(t5)
        kept = captured(t5, [unit for site in SITES for unit in units[site]], given)
    assert list(units) == list(SITES)
    for site in SITES:
        encoder, cross = site == "encoder", site == "cross_attention"
        owner: Any = units[site][0]
        for number, unit in enumerate(units[site]):
            states, source, found = kept[unit]
            for row in range(4):
                values = {name.partition(".")[2]: value.double() for name, value in modules[row // 2].values.items()
                          if name.startswith(f"{site}.")}  # fmt: skip
                prefix = projected(values).view(LENGTH, 2, 2, 4, 8)[:, number]
                q, k, v = (
                    (part.weight.double() @ x[row].double().T).T.view(-1, 4, 8)
                    for part, x in ((unit.q, states), (unit.k, source), (unit.v, source))
                )
                seen = torch.ones(len(q), len(k), dtype=torch.bool)
                if encoder or cross:
                    seen &= given["attention_mask"][row].bool()
                else:
                    seen = seen.tril()
                seen = torch.cat([torch.ones(len(q), LENGTH, dtype=torch.bool), seen], dim=1)
                for head in range(4):
                    bias = torch.zeros(len(q), LENGTH + len(k), dtype=torch.float64)
                    for query in range(0 if cross else len(q)):
                        for key in range(LENGTH + len(k)):
                            # Counted in the text where only it is biased; from the prefix's first key otherwise.
                            distance = key - query - (LENGTH if positions == BIASED_TEXT else 0)
                            if positions == BIASED_PREFIX or key >= LENGTH:
                                number_of = bucket(distance, both=encoder)
                                bias[query, key] = owner.relative_attention_bias.weight[number_of, head].double()
                    expected = attended(
                        q[:, head], torch.cat([prefix[:, 0, head], k[:, head]]),
                        torch.cat([prefix[:, 1, head], v[:, head]]), bias, seen,
                    )  # fmt: skip
                    real = given["attention_mask"][row].bool() if encoder else slice(None)
                    assert_close(found[row, :, head * 8 : head * 8 + 8][real], expected[real], within=2e-5)


def captured(
    backbone: Backbone, units: list[Any], given: dict[str, Tensor]
) -> dict[Any, tuple[Tensor, Tensor, Tensor]]:
    """By attention unit: its queries' and its keys' hidden states, and what goes into its output projection."""
    before: dict[Any, tuple[Tensor, Tensor]] = {}
    after: dict[Any, Tensor] = {}

    def keep(unit: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        source = kwargs.get("key_value_states")
        before[unit] = (states, states if source is None else source)

    handles = [unit.register_forward_pre_hook(keep, with_kwargs=True) for unit in units]
    handles += [
        unit.o.register_forward_pre_hook(lambda _, args, unit=unit: after.update({unit: args[0]})) for unit in units
    ]
    backbone.model(**given, use_cache=False)
    for handle in handles:
        handle.remove()
    return {unit: (*before[unit], after[unit]) for unit in units}


def test_a_cache_changes_nothing(t5: Backbone, variant: dict[str, Any]) -> None:
    # The cache holds no prefix; it is put before what the cache gives, in every step.
    module, given = random_prefix(t5, **variant), inputs(t5)
    for positions in (BIASED_TEXT, BIASED_PREFIX):
        module = replace(module, shape=replace(module.shape, relative_positions=positions))
        with torch.inference_mode(), AttentionPrefixModule.stack([module], t5).attach(t5):
            whole = t5.model(**given, use_cache=False).logits
            decoder = given.pop("decoder_input_ids")
            first = t5.model(**given, decoder_input_ids=decoder[:, :2], use_cache=True)
            cache, steps = first.past_key_values, [first.logits]
            steps += [
                t5.model(**given, decoder_input_ids=decoder[:, position : position + 1], past_key_values=cache).logits
                for position in (2, 3)
            ]
            given["decoder_input_ids"] = decoder
        assert_close(torch.cat(steps, dim=1), whole, within=1e-5)


def test_mt5_is_a_t5(t5: Backbone, mt5: Backbone, variant: dict[str, Any]) -> None:
    module, items = random_prefix(t5, **variant), encoded(t5)
    other = replace(module, card=module.card.model_copy(update={"backbone": None}))
    other.check(mt5)
    assert torch.equal(made_by_peft.ours(mt5, [other], items), made_by_peft.ours(t5, [module], items))


def test_padding_changes_nothing(t5: Backbone, variant: dict[str, Any]) -> None:
    module, items = random_prefix(t5, **variant), encoded(t5)
    together = made_by_peft.ours(t5, [module], items)[0]
    alone = torch.cat([made_by_peft.ours(t5, [module], [item])[0] for item in items])
    assert_close(together, alone, within=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_backbone_s_own_attention_comes_back(tiny_t5: Path, attention: str) -> None:
    backbone = load(tiny_t5)
    halves = [backbone.model.get_encoder(), backbone.model.get_decoder()]
    for half in halves:
        half.config._attn_implementation = attention
    before = photograph(backbone)
    stack = AttentionPrefixModule.stack([random_prefix(backbone, encoder=True)], backbone)
    with stack.attach(backbone):
        assert {half.config._attn_implementation for half in halves} == {"headstart_prefix"}
    with pytest.raises(ZeroDivisionError), stack.attach(backbone):
        1 / 0  # noqa: B018
    assert [half.config._attn_implementation for half in halves] == [attention, attention]
    assert_untouched(backbone, before)


def test_every_place_has_an_effect(t5: Backbone) -> None:
    module = random_prefix(t5, **EVERYWHERE)
    with torch.inference_mode():
        outputs = [t5.model(**inputs(t5)).logits]
        for layers in [module.shape.layers[:end] for end in (1, 2, 3)]:
            part = replace(module, shape=replace(module.shape, layers=layers))
            part = replace(part, values={f"{site}.prefix": module.values[f"{site}.prefix"] for site, _ in layers})
            with AttentionPrefixModule.stack([part], t5).attach(t5):
                outputs.append(t5.model(**inputs(t5)).logits)
    for fewer, more in pairwise(outputs):
        assert not torch.allclose(fewer, more, atol=0.01)


# The contract


@pytest.mark.parametrize(
    ("backbone", "variant"),
    [("t5", "pewe"), ("t5", "everywhere"), ("bert", "encoder"), ("roberta", "pewe")],
    indirect=["variant"],
)
def test_the_conformance_suite(backbone: str, variant: dict[str, Any]) -> None:
    found = check_kind("prefix", backbones=(backbone,), shape={"length": 4, **variant})
    assert not [outcome for outcome in found if outcome.result == "failed"]
    assert len([outcome for outcome in found if outcome.result == "passed"]) >= 13


def test_another_sort_of_prefix_is_another_stack(t5: Backbone) -> None:
    peft = random_module("prefix", t5, seed=1)
    assert type(peft) is PrefixModule
    modules = [random_prefix(t5, seed=1, encoder=True), peft, random_prefix(t5, seed=2, encoder=True),
               random_prefix(t5, seed=3, **EVERYWHERE)]  # fmt: skip
    assert stacks(modules, most=4) == [[0, 2], [1], [3]]
    with pytest.raises(MergeError, match=r"is .* in 'random-1' and missing in 'random-3'|missing in 'random-1'"):
        merge([modules[0], modules[3]], [0.5, 0.5])
    with pytest.raises(MergeError, match="missing in"):
        merge([modules[0], peft], [0.5, 0.5])


def test_a_projection_is_averaged_before_it(t5: Backbone) -> None:
    pair = [random_prefix(t5, seed=seed, **VARIANTS["pewe"]) for seed in (1, 2)]
    merged = merge(pair, [0.25, 0.75]).module
    for name, value in merged.parameters().items():
        assert_close(value, 0.25 * pair[0].values[name] + 0.75 * pair[1].values[name], within=1e-6)


def test_layers_by_what_they_hold(t5: Backbone) -> None:
    # One token of one unit: k₀ v₀ k₁ v₁ of the encoder; of decoder and cross-attention side by side.
    module = random_prefix(t5, **EVERYWHERE)
    shape = replace(module.shape, length=1, dim=1, heads=1)
    values = {
        "encoder.prefix": [1.0, 2, 3, 4],
        "decoder.prefix": [5.0, 6, 7, 8],
        "cross_attention.prefix": [9.0, 10, 11, 12],
    }
    module = replace(module, shape=shape, values={name: torch.tensor([value]) for name, value in values.items()})
    assert [rows.tolist() for rows in module.layer_vectors()] == [[[1, 2], [3, 4]], [[5, 6, 9, 10], [7, 8, 11, 12]]]


def test_scored_and_tuned(t5: Backbone, variant: dict[str, Any], tmp_path: Path) -> None:
    modules = [random_prefix(t5, seed=seed, **variant) for seed in (1, 2)]
    asked = {"indicators": ("cosine", "loss", "grand")}
    together = score(modules, REVIEWS, t5, **asked)
    for index, module in enumerate(modules):
        for name, values in score([module], REVIEWS, t5, **asked).values.items():
            assert together.values[name][index] == pytest.approx(values[0], rel=1e-4)
    before = photograph(t5)
    tuned = tune(TASK, t5, recipe=RECIPE.change(**variant))
    assert_untouched(t5, before)
    assert isinstance(tuned.module, AttentionPrefixModule)
    assert tuned.best.dev_loss < 0.9 * tuned.curve[0].dev_loss
    saved = save_module(tuned.module, tmp_path / "tuned")
    assert load_module(tmp_path / "tuned").card == saved.card
    assert_same_parameters(load_module(tmp_path / "tuned"), tuned.module)


def test_a_bfloat16_backbone_tunes_float32_values(tiny_t5: Path, variant: dict[str, Any]) -> None:
    backbone = load(tiny_t5, "bfloat16")
    tuned = tune(TASK, backbone, recipe=RECIPE.change(**variant))
    assert all(value.dtype == torch.float32 for value in tuned.module.parameters().values())
    assert tuned.best.dev_loss < tuned.curve[0].dev_loss


# Fresh prefixes, and what does not fit


def test_the_paper_s_prefix(t5: Backbone) -> None:
    made = fresh_module("prefix", t5, VARIANTS["pewe"] | {"bottleneck": None, "length": 120}, name="m", seed=0)
    assert {name: tuple(value.shape) for name, value in made.parameters().items()} == {
        f"{site}.{name}": shape
        for site in ("encoder", "decoder")
        for name, shape in {
            "tokens": (120, 32), "inner": (24, 32), "inner_bias": (24,), "outer": (128, 24), "outer_bias": (128,),
        }.items()
    }  # fmt: skip
    assert made.card.parameters == 2 * (120 * 32 + 24 * 33 + 128 * 25)
    assert made.config["peft_type"] == "ATTENTION_PREFIX"
    again = made.reset(seed=5)
    assert again.parameters().keys() == made.parameters().keys()
    assert not torch.equal(again.parameters()["decoder.tokens"], made.parameters()["decoder.tokens"])
    assert_same_parameters(made.reset(seed=0), made)


def test_peft_refuses_the_folder(t5: Backbone, tmp_path: Path) -> None:
    from peft import PeftConfig

    save_module(random_prefix(t5, encoder=True), tmp_path / "m")
    with pytest.raises((KeyError, ValueError), match="ATTENTION_PREFIX"):
        PeftConfig.from_pretrained(str(tmp_path / "m"))


def test_backbones_without_such_places() -> None:
    for settings in ({"encoder": True}, {"cross_attention": True}):
        with pytest.raises(
            SettingError,
            match=r"tiny-llama is a 'llama', and prefixes of the encoder .* t5, mt5, bart, bert, .*, electra; leave",
        ):
            fresh_module("prefix", tiny_backbone("llama"), settings, name="m", seed=0)
    with pytest.raises(SettingError, match="tiny-bert has no cross-attention; leave cross_attention out"):
        fresh_module("prefix", tiny_backbone("bert"), {"cross_attention": True}, name="m", seed=0)


def test_other_layers_and_keys(t5: Backbone) -> None:
    module = random_prefix(t5, **EVERYWHERE)
    module.check(t5)
    replace(module, shape=replace(module.shape, heads=None)).check(t5)
    deeper = tuple((site, count + (site == "decoder")) for site, count in module.shape.layers)
    for change, words in (
        ({"layers": deeper}, "3 layers of 'decoder', but tiny-t5 has 2"),
        ({"dim": 16}, "16 units in its keys, but tiny-t5 has 32"),
        ({"heads": 2}, "2 heads, but tiny-t5 has 4"),
    ):
        with pytest.raises(ModuleError, match=f"'random-1' has a prefix for {words}; load the backbone it was tuned"):
            replace(module, shape=replace(module.shape, **change)).check(t5)
    with pytest.raises(ModuleError, match="is for SEQ_2_SEQ_LM and tiny-llama is for CAUSAL_LM"):
        replace(module, card=module.card.model_copy(update={"backbone": None})).check(tiny_backbone("llama"))
