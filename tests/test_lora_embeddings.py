"""LoRA beside embeddings of tokens: PEFT's function and gradients, merging, tuning, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import made_by_peft
from headstart.backbones import Backbone, Encoded
from headstart.blending import SPACES, merge
from headstart.embeddings import tuned_parameters
from headstart.errors import ModuleError, SettingError
from headstart.indicators.engine import score
from headstart.kinds import LoraModule, LoraSettings, PeftModule, load_module, save_module
from headstart.kinds.lora import Factors
from headstart.tasks import Task
from headstart.tasks.task import TaskCard
from headstart.testing import check_kind
from headstart.tuning.tune import tune
from naive import (
    REVIEWS,
    assert_close,
    assert_same_parameters,
    assert_untouched,
    encoded,
    load,
    photograph,
    plain_logits,
)
from small_hub import RECIPE

# PEFT says when it saves embeddings, and when those that it adapts are tied to the head.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
    pytest.mark.filterwarnings("ignore:Model.* with `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]

TARGETS = {
    "tiny-llama": ["embed_tokens", "q_proj"],
    "tiny-gpt2": ["wte", "c_attn"],
    "tiny-t5": ["embed_tokens", "q"],
}
EMBEDDINGS = {
    "tiny-llama": ["model.embed_tokens"],
    "tiny-gpt2": ["transformer.wte"],
    "tiny-t5": ["decoder.embed_tokens", "encoder.embed_tokens"],
}
EMBED = "model.embed_tokens"


def drawn(backbone: Backbone, *, seed: int, rank: int = 3, targets: tuple[str, ...] | None = None) -> LoraModule:
    settings = LoraSettings(rank, seed + 1.5, targets or tuple(TARGETS[backbone.name]))
    fresh = LoraModule.fresh(backbone, settings, name=f"m{seed}", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return fresh.with_parameters(
        {key: torch.randn(v.shape, generator=generator) * 0.2 for key, v in fresh.parameters().items()}
    )


def with_full_weights(backbone: Backbone, updates: dict[str, Tensor], items: list[Encoded]) -> Tensor:
    """Logits of a backbone in which every layer, the head apart from the embedding it was tied to, has W + ΔW."""
    model = made_by_peft.fresh_model(Path(backbone.model.config._name_or_path)).double()
    with torch.inference_mode():
        for path, update in updates.items():
            layer = model.get_submodule(path)
            kept = isinstance(layer, nn.Linear) and layer.weight.shape == update.shape
            layer.weight = nn.Parameter(layer.weight + (update if kept else update.T))
        return torch.cat([plain_logits(model, item) for item in items])


def test_two_tokens_by_hand(llama: Backbone) -> None:
    # A has 1 at (0, 7), B has 3 at (2, 0), s = 2: the embedding of token 7 grows by 6 at place 2, no other moves.
    layer = llama.model.get_submodule(EMBED)
    vocabulary, width = layer.weight.shape
    a, b = torch.zeros(1, vocabulary), torch.zeros(width, 1)
    a[0, 7], b[2, 0] = 1.0, 3.0
    module = LoraModule.build({EMBED: Factors(a, b, 2.0, embedding=True)}, name="m", backbone=llama)
    ids = torch.tensor([[7, 8]])
    with torch.inference_mode():
        before = layer(ids)
        with LoraModule.stack([module], llama).attach(llama):
            grown = layer(ids) - before
    expected = torch.zeros(1, 2, width)
    expected[0, 0, 2] = 6.0
    assert_close(grown, expected, within=1e-6)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "rank_pattern": {".*(wte|embed_tokens)": 5}}])
def test_peft_computes_the_same(folder: Path, backbone: Backbone, tmp_path: Path, settings: dict[str, Any]) -> None:
    made = made_by_peft.make(folder, tmp_path / "module", target_modules=TARGETS[folder.name], **settings)
    module = load_module(made)
    assert isinstance(module, LoraModule)
    module.check(backbone)
    assert [path for path, f in module.factors.items() if f.embedding] == EMBEDDINGS[folder.name]
    items = encoded(backbone)
    found = made_by_peft.ours(backbone, [module], items)[0]
    assert_close(found, torch.cat(made_by_peft.logits(folder, made, items)), within=1e-4)
    without = module.with_parameters(
        {k: v * 0 if ".embed" in k or "wte" in k else v for k, v in module.parameters().items()}
    )
    assert (made_by_peft.ours(backbone, [without], items)[0] - found).abs().max() > 0.1, "the embeddings must matter"


def test_what_we_save_peft_loads(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    module = load_module(made_by_peft.make(folder, tmp_path / "made", target_modules=TARGETS[folder.name]))
    save_module(module, tmp_path / "saved")
    again = load_module(tmp_path / "saved")
    assert_same_parameters(again, module)
    assert again.card.parameters == sum(value.numel() for value in module.parameters().values())
    items = encoded(backbone)
    found = made_by_peft.ours(backbone, [module], items)[0]
    assert_close(found, torch.cat(made_by_peft.logits(folder, tmp_path / "saved", items)), within=1e-4)


def test_a_stack_computes_what_its_members_compute_alone(backbone: Backbone) -> None:
    before = photograph(backbone)
    items, modules = encoded(backbone), [drawn(backbone, seed=seed) for seed in range(3)]
    alone = torch.cat([made_by_peft.ours(backbone, [module], items) for module in modules])
    assert_close(made_by_peft.ours(backbone, modules, items), alone, within=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=0.1)
    assert_untouched(backbone, before)


def test_the_head_that_an_embedding_is_tied_to_stays(tiny_gpt2: Path) -> None:
    backbone = load(tiny_gpt2)
    assert backbone.head.weight is backbone.model.transformer.wte.weight
    module = drawn(backbone, seed=1, targets=("wte",))
    (factor,) = module.factors.values()
    backbone.model.config._name_or_path = str(tiny_gpt2)
    update = factor.scaling * (factor.b.double() @ factor.a.double())
    items = encoded(backbone)
    expected = with_full_weights(backbone, {"transformer.wte": update}, items)
    assert_close(made_by_peft.ours(backbone, [module], items)[0], expected, within=1e-4)


def test_gradients_are_those_of_peft(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    from peft import PeftModel

    made = made_by_peft.make(folder, tmp_path / "module", target_modules=TARGETS[folder.name])
    module = load_module(made)
    items = encoded(backbone)
    # The padding token as a word: PEFT does not train the row that a layer names as its padding.
    first = items[0].prompt
    items[0] = Encoded(type(first)([*first[:2], backbone.pad_id, *first[2:]]), items[0].target)
    other = module.with_parameters({name: -value for name, value in module.parameters().items()})
    stack = LoraModule.stack([other, module], backbone)
    batch = backbone.batch(items, range(len(items)))
    with stack.attach(backbone), stack.gradients():
        log_p = backbone.target_logits(batch, modules=2).log_softmax(-1)
        torch.autograd.backward(-log_p.gather(2, batch.gold.view(1, -1, 1).expand(2, -1, 1)).sum())
        found = {name: value.grad[1].clone() for name, value in stack.parameters.items()}
    model = PeftModel.from_pretrained(made_by_peft.fresh_model(folder), made, is_trainable=True).eval()
    for item in items:
        log_p = plain_logits(model, item).log_softmax(-1)
        torch.autograd.backward(-log_p[torch.arange(len(item.target)), torch.tensor(item.target)].sum())
    theirs = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert len(theirs) == len(found)
    for path in EMBEDDINGS[folder.name]:
        for part in "ab":
            expected = theirs[f"base_model.model.{path}.lora_embedding_{part.upper()}.default"]
            assert expected.abs().max() > 1e-3
            assert_close(found[f"{path}.{part}"], expected, within=1e-3 * float(expected.abs().max()))


def test_scores_and_embeddings(backbone: Backbone) -> None:
    modules = [drawn(backbone, seed=seed) for seed in (1, 2)]
    scores = score(modules, REVIEWS, backbone, indicators=("loss", "grand"))
    assert not scores.reasons
    # Embeddings are in no layer, so that task embeddings are those of the layers alone.
    rest = [path for path, f in modules[0].factors.items() if not f.embedding]
    layers = LoraModule.build({path: modules[0].factors[path] for path in rest}, name="m", backbone=None)
    assert tuned_parameters(modules[0]).tolist() == tuned_parameters(layers).tolist()
    only = drawn(backbone, seed=1, targets=(TARGETS[backbone.name][0],))
    with pytest.raises(ModuleError, match="'m1' tunes no numbered layer, so it has no task embedding"):
        tuned_parameters(only)


@pytest.mark.parametrize("space", SPACES)
def test_merging(backbone: Backbone, space: str, tmp_path: Path) -> None:
    one, two = drawn(backbone, seed=1), drawn(backbone, seed=2)
    alone = merge([one, two], [1.0, 0.0], space=space).module
    items = encoded(backbone)
    assert_close(made_by_peft.ours(backbone, [alone], items), made_by_peft.ours(backbone, [one], items), within=1e-4)
    merged = merge([one, two], [0.25, 0.75], space=space, rank=6 if space == "svd" else None)
    assert merged.error is not None
    saved = save_module(merged.module, tmp_path / "merged")
    assert saved.card.merge_error == merged.error
    again = load_module(tmp_path / "merged")
    again.check(backbone)
    assert {path: f.embedding for path, f in again.factors.items()} == {p: f.embedding for p, f in one.factors.items()}
    if space not in ("exact", "svd"):  # 6 = 3 + 3: nothing is cut off
        assert merged.error > 0.01
        return
    assert merged.error < 1e-5
    for path, factor in merged.module.factors.items():
        expected = sum(
            weight * m.factors[path].scaling * (m.factors[path].b @ m.factors[path].a)
            for m, weight in ((one, 0.25), (two, 0.75))
        )
        assert_close(factor.scaling * (factor.b @ factor.a), expected, within=1e-4)


def test_modules_with_and_without_embeddings_merge_in_exact(llama: Backbone) -> None:
    one, two = drawn(llama, seed=1), drawn(llama, seed=2, rank=2, targets=("q_proj", "v_proj"))
    merged = merge([one, two], [0.5, 0.5], space="exact").module
    merged.check(llama)
    assert merged.factors[EMBED].embedding
    assert merged.factors[EMBED].a.shape[0] == 3


def test_fresh_is_peft_s_own_start(backbone: Backbone) -> None:
    settings = LoraSettings(4, 8.0, tuple(TARGETS[backbone.name]))
    module = LoraModule.fresh(backbone, settings, name="fresh", seed=1)
    items = encoded(backbone)
    with torch.inference_mode():
        bare = backbone.target_logits(backbone.batch(items, range(len(items))))
    assert_close(made_by_peft.ours(backbone, [module], items), bare, within=1e-5)
    for path in EMBEDDINGS[backbone.name]:
        factor = module.factors[path]
        assert not factor.a.any()
        assert factor.b.std().item() == pytest.approx(1.0, rel=0.25)
    assert_same_parameters(module.reset(seed=1), module)


def test_tuning(llama: Backbone, tmp_path: Path) -> None:
    task = Task(TaskCard(name="t", metric="ACC", labels=("negative", "positive")), {"train": REVIEWS, "dev": REVIEWS})
    recipe = RECIPE.change(targets=("embed_tokens",), lr=0.05, select="loss", max_steps=6)
    tuned = tune(task, llama, recipe=recipe)
    assert tuned.best.dev_loss < tuned.curve[0].dev_loss
    save_module(tuned.module, tmp_path / "tuned")
    again = load_module(tmp_path / "tuned")
    again.check(llama)
    assert_same_parameters(again, tuned.module)


@pytest.mark.parametrize(
    ("target", "name"),
    [("embed_tokens", "llama"), ("wte", "gpt2"), ("embed_tokens", "t5"), ("word_embeddings", "bert")],
)
def test_the_contract_of_kinds_is_kept(target: str, name: str) -> None:
    outcomes = check_kind("lora", backbones=[name], shape={"targets": (target,)})
    assert [outcome for outcome in outcomes if outcome.result == "failed"] == []


def test_dora_goes_through_peft(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    settings = {"target_modules": ["wte"] if folder.name == "tiny-gpt2" else ["embed_tokens"], "use_dora": True}
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(made_by_peft.fresh_model(folder), LoraConfig(r=3, **settings))
    for value in model.parameters():
        if value.requires_grad:
            value.data += torch.empty_like(value).normal_(std=0.2)
    model.save_pretrained(tmp_path / "m", save_embedding_layers=False)
    module, before = load_module(tmp_path / "m"), photograph(backbone)
    assert isinstance(module, PeftModule)
    module.check(backbone)
    items = encoded(backbone)
    found = made_by_peft.ours(backbone, [module], items)[0]
    assert_close(found, torch.cat(made_by_peft.logits(folder, tmp_path / "m", items)), within=1e-4)
    assert_untouched(backbone, before)


# Copies of the backbone's weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_copy_of_the_backbone_s_own_weight_is_no_part_of_the_module(
    dtype: str, tiny_llama: Path, tmp_path: Path
) -> None:
    backbone = load(tiny_llama, dtype)
    made = made_by_peft.make(tiny_llama, tmp_path / "m", target_modules=["embed_tokens", "lm_head", "q_proj"])
    module = load_module(made)
    assert isinstance(module, LoraModule)
    assert set(module.copies) == {EMBED, "lm_head"}
    module.check(backbone)
    assert not [name for name in module.state_dict() if "base_layer" in name]


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_copy_that_was_changed_is_refused(target: str, tiny_llama: Path, llama: Backbone, tmp_path: Path) -> None:
    # PEFT would write it over the backbone's own weight, for every module that is loaded after.
    from safetensors.torch import load_file, save_file

    made = made_by_peft.make(tiny_llama, tmp_path / "m", target_modules=[target])
    tensors = load_file(made / "adapter_model.safetensors")
    (copy,) = (name for name in tensors if "base_layer" in name)
    tensors[copy][3, 1] += 0.5
    save_file(tensors, made / "adapter_model.safetensors")
    module = load_module(made)
    with pytest.raises(ModuleError, match=rf"the copy of \S*{target} that lies beside module 'm' is not the weight of"):
        module.check(llama)


# What is refused


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("tiny_gpt2", "transformer.wpe"),
        ("tiny_t5", "shared"),
        ("tiny_t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
    ],
)
def test_embeddings_of_anything_but_tokens_are_refused(
    name: str, path: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    backbone = load(folder)
    module = load_module(made_by_peft.make(folder, tmp_path / "m", target_modules=[path]))
    with pytest.raises(
        ModuleError, match=rf"adapts {path}, which is not a plain embedding of the tokens that {folder.name}"
    ):
        module.check(backbone)
    with pytest.raises(SettingError, match="no layer of"):
        LoraModule.fresh(backbone, LoraSettings(targets=(path,)), name="m", seed=0)


@pytest.mark.parametrize("more", ["max_norm", "scaled"])
def test_embeddings_that_compute_more_are_refused(more: str, tiny_llama: Path) -> None:
    backbone = load(tiny_llama)
    module = drawn(backbone, seed=1)
    layer = backbone.model.get_submodule(EMBED)
    if more == "max_norm":
        layer.max_norm = 1.0
    else:
        layer.__class__ = type("ScaledWordEmbedding", (nn.Embedding,), {})  # as Gemma 3 has
    with pytest.raises(ModuleError, match=r"not a plain embedding of the tokens"):
        module.check(backbone)


def test_one_embedding_at_two_places_is_refused(tiny_t5: Path) -> None:
    # PEFT would adapt it at the first place only.
    backbone = load(tiny_t5)
    module = drawn(backbone, seed=1)
    backbone.model.decoder.embed_tokens = backbone.model.encoder.embed_tokens
    with pytest.raises(ModuleError, match=r"not a plain embedding of the tokens"):
        module.check(backbone)


def test_factors_of_the_wrong_sort_are_refused(llama: Backbone) -> None:
    module = drawn(llama, seed=1)
    linear = {path: f._replace(embedding=False) for path, f in module.factors.items()}
    with pytest.raises(ModuleError, match=r"for model\.embed_tokens are those of a linear layer, which it is not in"):
        replace(module, factors=linear).check(llama)
    other = {path: f._replace(embedding=True) for path, f in module.factors.items()}
    with pytest.raises(ModuleError, match=r"q_proj are those of an embedding, which it is not in"):
        replace(module, factors=other).check(llama)


def test_embeddings_that_are_named_but_not_there_are_refused(llama: Backbone) -> None:
    module = drawn(llama, seed=1)
    rest = {path: f for path, f in module.factors.items() if not f.embedding}
    with pytest.raises(ModuleError, match=r"names model\.embed_tokens in target_modules but holds no tensors for it"):
        replace(module, factors=rest).check(llama)
