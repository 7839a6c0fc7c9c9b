"""What holds for prompts and prefixes alike: PEFT computes the same, and a stack is its members."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import made_by_peft
import virtual
from headstart.backbones import Backbone, Encoded, TextFormat
from headstart.blending import merge
from headstart.blending.ensemble import ensemble
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.indicators.engine import score
from headstart.kinds import KINDS, Module, fresh_module, load_module, save_module, stacks
from headstart.records import Fingerprint, TaskCard
from headstart.tasks import Task
from headstart.tuning.evaluation import evaluate
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
    warmup_steps=2, clip=1.0, max_input=64, max_target=8, select="loss", length=LENGTH,
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


def test_what_we_save_peft_loads(folder: Path, backbone: Backbone, variant: Any, tmp_path: Path) -> None:
    items = encoded(backbone)
    module, _ = pair(backbone, variant)
    saved = save_module(module, tmp_path / "saved")
    again = load_module(tmp_path / "saved")
    assert_same_parameters(again, module)
    assert again.card == saved.card
    assert again.digest() == saved.digest()
    found = made_by_peft.ours(backbone, [module, again], items)
    assert torch.equal(found[0], found[1])
    assert_close(found[0], from_peft(folder, tmp_path / "saved", items), within=3e-5)


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


def test_a_stack_computes_what_its_members_compute_alone(backbone: Backbone, variant: Any) -> None:
    items, modules = encoded(backbone), pair(backbone, variant)
    together = made_by_peft.ours(backbone, modules, items)
    alone = torch.cat([made_by_peft.ours(backbone, [module], items) for module in modules])
    assert_close(together, alone, within=3e-5)
    assert not torch.allclose(together[0], together[1], atol=0.1)
    stranger = random_module("prefix" if modules[0].kind == "prompt" else "prompt", backbone, seed=0)
    assert stacks([modules[0], stranger, modules[1]], most=4) == [[0, 2], [1]]


def test_decoding_does_not_depend_on_the_company(backbone: Backbone, variant: Any) -> None:
    # Prompts of unequal length are padded, causal ones between the virtual tokens and the text.
    modules = pair(backbone, variant)
    prompts = [item.prompt for item in encoded(backbone)[:3]]
    family = type(modules[0])
    with torch.inference_mode():
        with family.stack(modules, backbone).attach(backbone):
            together = backbone.generate(prompts, max_new_tokens=6, modules=2)
        for module, texts in zip(modules, together, strict=True):
            with family.stack([module], backbone).attach(backbone):
                assert [backbone.generate([prompt], max_new_tokens=6)[0][0] for prompt in prompts] == texts
    assert together[0] != together[1]


def test_options_score_as_targets_do(backbone: Backbone, variant: Any) -> None:
    modules = pair(backbone, variant)
    prompts = [item.prompt for item in encoded(backbone)[:3]]
    options = [[backbone.encoder.target(text, TextFormat()) for text in ("negative", "warm", "a")]] * 3
    with torch.inference_mode(), type(modules[0]).stack(modules, backbone).attach(backbone):
        found = backbone.option_scores(prompts, options, modules=2)
    for module, rows in zip(modules, found, strict=True):
        for prompt, listed, row in zip(prompts, options, rows, strict=True):
            items = [Encoded(prompt, option) for option in listed]
            assert_close(torch.tensor(row), log_likelihoods(backbone, module, items), within=1e-4)


def log_likelihoods(backbone: Backbone, module: Module, items: list[Encoded]) -> torch.Tensor:
    sums = []
    for item in items:
        logits = made_by_peft.ours(backbone, [module], [item])[0]
        sums.append(logits.log_softmax(-1)[torch.arange(len(item.target)), torch.tensor(item.target)].sum())
    return torch.stack(sums)


def test_attach_then_detach_leaves_no_trace(backbone: Backbone, variant: Any) -> None:
    before, modules = photograph(backbone), pair(backbone, variant)
    stack = type(modules[0]).stack(modules, backbone)
    batch = backbone.batch(encoded(backbone), [0, 1])
    with torch.inference_mode():
        bare = backbone.target_logits(batch)
        with stack.attach(backbone):
            assert not torch.equal(backbone.target_logits(batch, modules=2)[:1], bare)
        assert torch.equal(backbone.target_logits(batch), bare)
    assert_untouched(backbone, before)
    with pytest.raises(KeyboardInterrupt), stack.attach(backbone), stack.gradients():
        interrupted(backbone.target_logits(batch, modules=2))
    assert_untouched(backbone, before)
    assert all(value.grad is None and not value.requires_grad for value in stack.parameters.values())
    for index, module in enumerate(modules):
        assert_same_parameters(stack.module(index), module)


def interrupted(logits: torch.Tensor) -> None:
    logits.sum().backward()
    raise KeyboardInterrupt


# Gradients


def test_gradients_of_a_stack_in_one_backward_pass(folder: Path, variant: Any) -> None:
    backbone = load(folder)
    backbone.model.double()
    modules, items = pair(backbone, variant, size=0.5), encoded(backbone)[:3]
    batch = backbone.batch(items, range(3))

    def losses(stack: Any) -> torch.Tensor:
        log_p = backbone.target_logits(batch, modules=len(stack)).log_softmax(-1)
        return -log_p.gather(2, batch.gold.view(1, -1, 1).expand(len(stack), -1, 1)).sum((1, 2))

    family = type(modules[0])
    together = family.stack(modules, backbone)
    with together.attach(backbone), together.gradients():
        losses(together).sum().backward()
        gradients = {name: value.grad.clone() for name, value in together.parameters.items() if value.grad is not None}
        squared = together.squared_gradients()
    assert gradients.keys() == together.parameters.keys() == squared.keys()
    for index, module in enumerate(modules):
        alone = family.stack([module], backbone)
        with alone.attach(backbone), alone.gradients():
            losses(alone).sum().backward()
            for name, value in alone.parameters.items():
                assert value.grad is not None
                assert_close(gradients[name][index], value.grad[0], within=1e-9)
                assert squared[name][index].item() == pytest.approx(value.grad.pow(2).sum().item(), rel=1e-5)
    with torch.no_grad(), together.attach(backbone):
        for name, value in together.parameters.items():
            # The steepest coordinate of each module. Norms and rotations round to float32 in every dtype, which shows
            # in differences over small steps.
            for index in range(2):
                place = gradients[name][index].abs().argmax()
                slope = finite_difference(lambda: losses(together)[index], value[index].view(-1), place)  # noqa: B023
                assert slope == pytest.approx(gradients[name][index].flatten()[place].item(), rel=5e-3)


def finite_difference(compute: Any, values: torch.Tensor, place: torch.Tensor, step: float = 1e-3) -> float:
    kept = values[place].item()
    values[place] = kept + step
    above = compute().item()
    values[place] = kept - step
    below = compute().item()
    values[place] = kept
    return float((above - below) / (2 * step))


# Merging


def test_one_module_with_weight_1_is_that_module(llama: Backbone, variant: Any) -> None:
    module, _ = pair(llama, variant)
    merged = merge([module], [1.0]).module
    assert_same_parameters(merged, module)
    assert_same_parameters(module.aligned_to(module), module)


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
    start = ensemble(TASK, pair(llama, variant), llama, recipe=RECIPE, temperature=0.1)
    tuned = tune(TASK, llama, start=start.merged.module, recipe=RECIPE.change(max_steps=6), name="tuned").module
    saved = save_module(tuned, tmp_path / "tuned")
    again = load_module(tmp_path / "tuned")
    assert again.card == saved.card
    assert again.card.task == "reviews"
    found = evaluate([tuned, again], TASK.dev, llama, metric="ACC", text_format=text_format_of(RECIPE))
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-6)


def test_a_fresh_module_learns(backbone: Backbone, variant: Any) -> None:
    kind, settings = variant
    before = photograph(backbone)
    recipe = RECIPE.change(kind=kind, **settings)
    tuned = tune(TASK, backbone, recipe=recipe)
    assert_untouched(backbone, before)
    assert tuned.module.kind == kind
    assert tuned.best.dev_loss < 0.9 * tuned.curve[0].dev_loss


def test_a_bfloat16_backbone_tunes_float32_values(tiny_llama: Path, variant: Any) -> None:
    kind, settings = variant
    backbone = load(tiny_llama, "bfloat16")
    tuned = tune(TASK, backbone, recipe=RECIPE.change(kind=kind, **settings))
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
    shape = {"length": 4, "rank": 9, **settings}
    first, again, other = (fresh_module(kind, backbone, shape, name="m", seed=seed) for seed in (1, 1, 2))
    first.check(backbone)
    assert first.card.rank == 4
    assert_same_parameters(first, again)
    with pytest.raises(AssertionError, match="parameter differs"):
        assert_same_parameters(first, other)
    assert_same_parameters(first.reset(seed=9), first.reset(seed=9))
    assert_same_parameters(other.untuned(backbone, seed=1), first)
    with pytest.raises(SettingError, match="length is 0; a module has at least 1 virtual token"):
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
