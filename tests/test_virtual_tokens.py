"""What holds for prompts and prefixes alike: PEFT computes the same, and a stack is its members."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import made_by_peft
import virtual
from headstart.backbones import Backbone
from headstart.blending import Blend, merge
from headstart.blending.ensemble import ensemble
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.indicators.engine import score
from headstart.kinds import KINDS, Module, fresh_module, load_module, save_module
from headstart.records import Fingerprint, TaskCard
from headstart.tasks import Task
from headstart.tuning.recipes import Recipe
from headstart.tuning.tune import text_format_of, tune
from naive import REVIEWS, assert_close, assert_same_parameters, assert_untouched, load, photograph
from virtual import LENGTH, encoded, from_peft, load_peft, peft_logits, random_module

# PEFT 0.21 still asks transformers for the old name of a property.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

PLAIN = {"prompt": ("prompt", {}), "prefix": ("prefix", {})}
VARIANTS = PLAIN | {"projection": ("prefix", {"reparametrized": True, "bottleneck": 3})}
TASK = Task(TaskCard(name="reviews", family="sentiment", metric="ACC"), {"train": REVIEWS, "dev": REVIEWS[:4]})
RECIPE = Recipe(
    name="tiny", lr=5e-2, batch_size=2, max_steps=18, eval_every=6, patience=9, optimizer="adamw", schedule="linear",
    warmup_steps=2, clip=1.0, max_input=64, max_target=8, select="loss", kind="prompt", shape={"length": LENGTH},
)  # fmt: skip


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return VARIANTS[request.param]


def pair(backbone: Backbone, variant: tuple[str, dict[str, Any]], size: float = 1.0) -> list[Module]:
    kind, settings = variant
    return [random_module(kind, backbone, seed=seed, size=size, **settings) for seed in (1, 2)]


# PEFT


@pytest.mark.parametrize("kind", PLAIN)
def test_peft_computes_the_same(folder: Path, backbone: Backbone, kind: str, tmp_path: Path) -> None:
    made = virtual.make(kind, folder, tmp_path / "made")
    module = load_module(made)
    module.check(backbone)
    assert (module.kind, module.card.kind, module.card.rank) == (kind, kind, LENGTH)
    items = encoded(backbone)
    found = made_by_peft.ours(backbone, [module], items)[0]
    assert_close(found, from_peft(folder, made, items), within=3e-5)
    with torch.inference_mode():
        bare = backbone.target_logits(backbone.batch(items, range(len(items))))[0]
    assert not torch.allclose(found, bare, atol=0.1), "the module must change the logits for this to say anything"


@pytest.mark.parametrize("kind", PLAIN)
def test_peft_s_folder_goes_through_us_unchanged(folder: Path, backbone: Backbone, kind: str, tmp_path: Path) -> None:
    made = virtual.make(kind, folder, tmp_path / "made")
    save_module(load_module(made), tmp_path / "saved")
    items = encoded(backbone)
    assert torch.equal(from_peft(folder, made, items), from_peft(folder, tmp_path / "saved", items))


@pytest.mark.parametrize("kind", PLAIN)
def test_greedy_decoding_as_peft(folder: Path, backbone: Backbone, kind: str, tmp_path: Path) -> None:
    made = virtual.make(kind, folder, tmp_path / "made")
    model = load_peft(folder, made)
    prompt = encoded(backbone)[0].prompt
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        produced = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False,
            pad_token_id=backbone.pad_id, eos_token_id=backbone.tokenizer.eos_token_id,
        )  # fmt: skip
    new = produced[0] if backbone.seq2seq else produced[0, len(prompt) :]
    expected = backbone.tokenizer.decode(new, skip_special_tokens=True).strip()
    module = load_module(made)
    with torch.inference_mode(), type(module).stack([module], backbone).attach(backbone):
        assert backbone.generate([prompt], max_new_tokens=8) == [[expected]]


# A stack


# Merging


def test_an_average_by_hand(tiny_llama: Path, llama: Backbone, variant: Any, tmp_path: Path) -> None:
    # 1/4 of all 2s and 3/4 of all 6s is all 5s; the file goes through PEFT as the mean does through us.
    low, high = pair(llama, variant)
    low, high = (
        module.with_parameters({name: torch.full_like(value, number) for name, value in module.parameters().items()})
        for module, number in ((low, 2.0), (high, 6.0))
    )
    merged = merge([low, high], [0.25, 0.75], name="mean").module
    assert all(value.eq(5.0).all() for value in merged.parameters().values())
    drawn = merge(pair(llama, variant), [0.25, 0.75]).module
    save_module(drawn, tmp_path / "mean")
    items = encoded(llama)
    found = made_by_peft.ours(llama, [load_module(tmp_path / "mean")], items)[0]
    assert_close(found, from_peft(tiny_llama, tmp_path / "mean", items), within=3e-5)


def test_what_has_no_average_is_refused(llama: Backbone, variant: Any) -> None:
    kind, settings = variant
    module, _ = pair(llama, variant)
    longer = KINDS[kind].fresh(llama, KINDS[kind].settings(length=LENGTH + 1, **settings), name="longer", seed=0)
    with pytest.raises(MergeError, match=r"is 5×\d+ in 'random-1' and 6×\d+ in 'longer'|is 6×\d+ in 'longer' and 5×"):
        merge([module, longer], [0.5, 0.5])
    for space in ("exact", "svd"):
        with pytest.raises(MergeError):
            merge(pair(llama, variant), [0.5, 0.5], space=space, rank=2 if space == "svd" else None)


# Scoring, evaluation and tuning


def test_scoring_takes_them_together(llama: Backbone, variant: Any) -> None:
    modules = pair(llama, variant)
    asked = {"indicators": ("cosine", "loss", "grand")}
    together = score(modules, REVIEWS, llama, **asked)
    for index, module in enumerate(modules):
        for name, values in score([module], REVIEWS, llama, **asked).values.items():
            assert together.values[name][index] == pytest.approx(values[0], rel=1e-4)


def test_from_a_hub_to_a_tuned_module(llama: Backbone, variant: Any, tmp_path: Path) -> None:
    start = ensemble(TASK, pair(llama, variant), llama, recipe=RECIPE, blend=Blend(temperature=0.1))
    tuned = tune(TASK, llama, start=start.merged.module, recipe=RECIPE.change(max_steps=6), name="tuned").module
    saved = save_module(tuned, tmp_path / "tuned")
    again = load_module(tmp_path / "tuned")
    assert again.card == saved.card
    assert again.card.task == "reviews"
    found = evaluate_many([tuned, again], TASK.dev, llama, metric="ACC", text_format=text_format_of(RECIPE))
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-6)


def test_a_fresh_module_learns(backbone: Backbone, variant: Any) -> None:
    kind, settings = variant
    before = photograph(backbone)
    recipe = RECIPE.change(kind=kind, length=LENGTH, **settings)
    tuned = tune(TASK, backbone, recipe=recipe)
    assert_untouched(backbone, before)
    assert tuned.module.kind == kind
    assert tuned.best.dev_loss < 0.9 * tuned.curve[0].dev_loss


def test_a_bfloat16_backbone_tunes_float32_values(tiny_llama: Path, variant: Any) -> None:
    kind, settings = variant
    backbone = load(tiny_llama, "bfloat16")
    tuned = tune(TASK, backbone, recipe=RECIPE.change(kind=kind, length=LENGTH, **settings))
    assert all(value.dtype == torch.float32 for value in tuned.module.parameters().values())
    assert tuned.best.dev_loss < tuned.curve[0].dev_loss


@pytest.mark.parametrize("kind", PLAIN)
def test_tuning_is_a_plain_loop_over_a_peft_model(folder: Path, backbone: Backbone, kind: str, tmp_path: Path) -> None:
    start = save_module(random_module(kind, backbone, seed=1, size=0.5), tmp_path / "start")
    recipe = RECIPE.change(
        lr=1e-2, batch_size=len(REVIEWS), max_steps=4, eval_every=4, schedule="constant", warmup_steps=0,
        weight_decay=0.01, clip=0.5,
    )  # fmt: skip
    tuned = tune(TASK, backbone, start=start, recipe=recipe)
    assert tuned.best.step == 4, "the state compared must be the last one"
    (found,), (began,) = tuned.module.state_dict().values(), start.state_dict().values()
    assert_close(found, plain_loop(backbone, folder, tmp_path / "start"), within=3e-5)
    assert (found - began).abs().max() > 1e-2, "it must have moved"


def plain_loop(backbone: Backbone, folder: Path, start: Path) -> torch.Tensor:
    """Textbook PyTorch over a PEFT model: all rows in every batch, one row a forward pass, AdamW."""
    model = trainable(folder, start)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)
    items = backbone.encode([(row.input, row.target) for row in TASK.train], text_format_of(RECIPE))
    tokens = sum(len(item.target) for item in items)
    for _ in range(4):
        for item in items:
            logits = peft_logits(model, item)
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(item.target), reduction="sum") / tokens
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        optimizer.zero_grad()
    found: torch.Tensor = model.get_prompt_embedding_to_save("default")
    return found


def trainable(folder: Path, start: Path) -> Any:
    """PEFT does not load virtual tokens to train them on, so they are copied into fresh ones."""
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights

    config = PeftConfig.from_pretrained(start)
    config.inference_mode, config.base_model_name_or_path = False, None
    model = get_peft_model(made_by_peft.fresh_model(folder), config).eval()
    model.prompt_encoder["default"].embedding.weight.data.copy_(load_peft_weights(start)["prompt_embeddings"])
    return model


# Fresh modules, and what does not fit


def test_the_seed_decides(backbone: Backbone, variant: Any) -> None:
    kind, settings = variant
    shape = {"length": 4, **settings}
    first, again, other = (fresh_module(kind, backbone, shape, name="m", seed=seed) for seed in (1, 1, 2))
    first.check(backbone)
    assert first.card.rank == 4
    assert_same_parameters(first, again)
    with pytest.raises(AssertionError, match="parameter differs"):
        assert_same_parameters(first, other)
    assert_same_parameters(first.reset(seed=9), first.reset(seed=9))
    assert_same_parameters(other.untuned(backbone, seed=1), first)
    with pytest.raises(SettingError, match=f"setting of kind '{kind}': length=0 must be above 0; correct it"):
        fresh_module(kind, backbone, {**settings, "length": 0}, name="m", seed=0)


def test_modules_of_another_backbone(tiny_t5: Path, llama: Backbone, variant: Any) -> None:
    module, _ = pair(llama, variant)
    other = Fingerprint(architecture="LlamaForCausalLM", shapes="s", weights="w" * 64, name="elsewhere")
    with pytest.raises(ModuleError, match="module 'random-1' was made for another backbone"):
        replace(module, card=module.card.model_copy(update={"backbone": other})).check(llama)
    unstated = replace(module, card=module.card.model_copy(update={"backbone": None}))
    unstated.check(llama)
    with pytest.raises(ModuleError, match="'random-1' is for CAUSAL_LM and tiny-t5 is for SEQ_2_SEQ_LM; load the"):
        unstated.check(load(tiny_t5))
