"""Task heads that travel with modules: saved and loaded, in PEFT, in merges and embeddings, and refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from encoders import (
    CARDS,
    ENCODERS,
    LABELS,
    QUERIES,
    TASKS,
    encoder,
    in_peft,
    items,
    model_of,
    ours,
    plain,
    random_head,
    random_module,
)
from headstart.backbones import EncoderBackbone
from headstart.blending import SPACES, merge
from headstart.embeddings import tuned_parameters
from headstart.hub import Hub
from headstart.kinds import KINDS, Module, PeftModule, fresh_module, load_module, save_module, stack_of, stacks
from headstart.records import CARD_FILE, HeadCard
from naive import assert_close, assert_same_parameters, assert_untouched, photograph

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

WEIGHTS = "adapter_model.safetensors"
TYPES = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "span": "QUESTION_ANS"}


@pytest.fixture(params=ENCODERS)
def backbone(request: pytest.FixtureRequest) -> EncoderBackbone:
    return encoder(request.param)


@pytest.fixture
def bert() -> EncoderBackbone:
    return encoder("bert")


def kind_module(kind: str, backbone: EncoderBackbone, card: HeadCard, *, seed: int = 1) -> Module:
    """A module of any kind whose every number was moved, with a random head."""
    fresh = fresh_module(kind, backbone, {}, name=f"{kind}-{seed}", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    moved = {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in fresh.parameters().items()}
    return fresh.with_parameters(moved).with_head(random_head(backbone, card, seed=seed))


def lora_config(backbone: EncoderBackbone, task: str, **settings: Any) -> Any:
    from peft import LoraConfig

    targets = QUERIES[backbone.name.removeprefix("tiny-")]
    return LoraConfig(**({"r": 2, "target_modules": list(targets), "task_type": TYPES[task]} | settings))


def assert_same_head(actual: Module, expected: Module) -> None:
    assert actual.head is not None
    assert expected.head is not None
    assert actual.head.tensors.keys() == expected.head.tensors.keys()
    assert all(torch.equal(actual.head.tensors[name], value) for name, value in expected.head.tensors.items())
    assert actual.card.head == actual.head.card == expected.card.head


def assert_says(backbone: EncoderBackbone, module: Module, model: Any, task: str) -> None:
    """The stacked computation of the module is that of a model of PEFT's, example by example."""
    rows = items(backbone, CARDS[task])
    found = ours(backbone, [module], rows)[0]
    step = 2 if task == "span" else 1
    for place, row in enumerate(rows):
        expected = plain(model, row, task=task)
        assert_close(
            found[step * place : step * (place + 1), : expected.shape[1]],
            expected,
            within=2e-5 * max(1.0, expected.abs().max().item()),
        )


# PEFT


@pytest.mark.parametrize("task", TASKS)
def test_what_peft_saves_is_read_and_computes_the_same(backbone: EncoderBackbone, task: str, tmp_path: Path) -> None:
    model = in_peft(backbone, random_head(backbone, CARDS[task]), lora_config(backbone, task), seed=1)
    model.save_pretrained(tmp_path / "m")
    module = load_module(tmp_path / "m")
    module.check(backbone)
    head = module.card.head
    assert head is not None
    assert (head.task, head.outputs, head.labels) == (task, CARDS[task].outputs, ())
    assert_says(backbone, module, model, task)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_saved_here_computes_the_same_in_peft(backbone: EncoderBackbone, task: str, tmp_path: Path) -> None:
    from peft import PeftModel

    module = random_module(backbone, CARDS[task], seed=1)
    save_module(module, tmp_path / "m")
    bare = model_of(backbone, backbone.fresh_head(CARDS[task], seed=9))
    model = PeftModel.from_pretrained(bare, tmp_path / "m").eval()
    assert type(model).__name__ == f"PeftModelFor{'QuestionAnswering' if task == 'span' else 'SequenceClassification'}"
    assert_says(backbone, module, model, task)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_prompts_of_peft(family: str, task: str, tmp_path: Path) -> None:
    from peft import PeftModel, PromptTuningConfig

    backbone = encoder(family)
    config = PromptTuningConfig(task_type=TYPES[task], num_virtual_tokens=3)
    model = in_peft(backbone, random_head(backbone, CARDS[task]), config, seed=1)
    model.save_pretrained(tmp_path / "m")
    module = load_module(tmp_path / "m")
    module.check(backbone)
    assert_says(backbone, module, model, task)
    save_module(module, tmp_path / "again")
    bare = model_of(backbone, backbone.fresh_head(CARDS[task], seed=9))
    assert_says(backbone, module, PeftModel.from_pretrained(bare, tmp_path / "again").eval(), task)


@pytest.mark.parametrize("targets", [["query", "dense"], ".*dense", "all-linear"])
def test_a_target_that_names_a_layer_of_the_head_leaves_the_head_alone(targets: Any, tmp_path: Path) -> None:
    # RoBERTa's head has a layer "dense", as its encoder has.
    from peft import PeftModel

    roberta = encoder("roberta")
    config = lora_config(roberta, "classification", target_modules=targets)
    model = in_peft(roberta, random_head(roberta, CARDS["classification"]), config, seed=1)
    model.save_pretrained(tmp_path / "m")
    module = load_module(tmp_path / "m")
    module.check(roberta)
    assert all(target.startswith("roberta.") for target in module.card.targets)
    assert any("dense" in target for target in module.card.targets)
    assert_says(roberta, module, model, "classification")
    save_module(module, tmp_path / "again")
    bare = model_of(roberta, roberta.fresh_head(CARDS["classification"], seed=9))
    assert_says(roberta, module, PeftModel.from_pretrained(bare, tmp_path / "again").eval(), "classification")


def test_a_fresh_module_leaves_the_layers_of_the_head_alone(tmp_path: Path) -> None:
    from peft import PeftModel

    roberta = encoder("roberta")
    module = random_module(roberta, CARDS["classification"], targets=("dense", "out_proj"))
    assert {path.partition(".")[0] for path in module.factors} == {"roberta"}
    save_module(module, tmp_path / "m")
    bare = model_of(roberta, roberta.fresh_head(CARDS["classification"], seed=9))
    assert_says(roberta, module, PeftModel.from_pretrained(bare, tmp_path / "m").eval(), "classification")
    biases = fresh_module("bitfit", roberta, {}, name="b", seed=0)
    assert {path.partition(".")[0] for path in biases.card.targets} == {"roberta"}
    biases.check(roberta)


@pytest.mark.parametrize("variant", [{"use_dora": True}, {"bias": "lora_only"}])
def test_variants_that_run_through_peft_have_heads_too(
    bert: EncoderBackbone, variant: dict[str, Any], tmp_path: Path
) -> None:
    config = lora_config(bert, "classification", **variant)
    model = in_peft(bert, random_head(bert, CARDS["classification"]), config, seed=1)
    model.save_pretrained(tmp_path / "m")
    module = load_module(tmp_path / "m")
    assert isinstance(module, PeftModule)
    module.check(bert)
    before = photograph(bert)
    assert_says(bert, module, model, "classification")
    assert_untouched(bert, before)
    save_module(module, tmp_path / "again")
    again = load_module(tmp_path / "again")
    assert_same_head(again, module)
    assert_says(bert, again, model, "classification")


def test_the_pooler_that_a_span_never_reads(bert: EncoderBackbone, tmp_path: Path) -> None:
    # transformers builds no pooler for spans, so PEFT has nothing of it to save, whatever "dense" names elsewhere.
    config = lora_config(bert, "span", target_modules=["query", "dense"])
    model = in_peft(bert, random_head(bert, CARDS["span"]), config)
    model.save_pretrained(tmp_path / "m")
    module = load_module(tmp_path / "m")
    module.check(bert)
    assert_says(bert, module, model, "span")


# Saving and loading


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_brings_its_head_back(bert: EncoderBackbone, kind: str, task: str, tmp_path: Path) -> None:
    module = kind_module(kind, bert, CARDS[task])
    saved = save_module(module, tmp_path / "m")
    loaded = load_module(tmp_path / "m")
    assert_same_head(loaded, module)
    assert_same_parameters(loaded, module)
    assert loaded.card == saved.card
    assert loaded.card.parameters == module.card.parameters, "the head is not counted"
    loaded.check(bert)
    rows = items(bert, CARDS[task])
    assert torch.equal(ours(bert, [loaded], rows), ours(bert, [module], rows))


@pytest.mark.parametrize("kind", list(KINDS))
def test_without_the_card_only_the_labels_are_lost(bert: EncoderBackbone, kind: str, tmp_path: Path) -> None:
    module = kind_module(kind, bert, CARDS["classification"])
    save_module(module, tmp_path / "m")
    (tmp_path / "m" / CARD_FILE).unlink()
    loaded = load_module(tmp_path / "m")
    assert loaded.card.head == module.head.card.model_copy(update={"labels": ()})  # type: ignore[union-attr]
    rows = items(bert, CARDS["classification"])
    assert torch.equal(ours(bert, [loaded], rows), ours(bert, [module], rows))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_hub_keeps_the_head(bert: EncoderBackbone, kind: str, tmp_path: Path) -> None:
    module = kind_module(kind, bert, CARDS["classification"])
    save_module(module, tmp_path / module.name)
    hub = Hub.create(tmp_path / "hub")
    hub.add(tmp_path / module.name)
    assert_same_head(load_module(hub.read(module.name)), module)


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_was_never_tuned_has_a_whole_head_or_none(bert: EncoderBackbone, kind: str) -> None:
    fresh = kind_module(kind, bert, CARDS["classification"]).untuned(bert, seed=0)
    assert fresh.card.head == (None if fresh.head is None else fresh.head.card)


def test_a_head_is_not_shared(bert: EncoderBackbone) -> None:
    module = random_module(bert, CARDS["regression"])
    assert module.with_head(None).card.head is None
    assert module.head is not None, "work returns a new module"
    stack = stack_of([module], bert)
    for value in stack.parameters.values():
        value.data += 1
    assert_same_head(module, random_module(bert, CARDS["regression"]))
    given_back = stack.module(0).head
    assert given_back is not None
    for name, value in given_back.tensors.items():
        assert_close(value, module.head.tensors[name] + 1, within=1e-6)


def test_equal_digest_equal_answers(bert: EncoderBackbone) -> None:
    module = random_module(bert, CARDS["classification"])
    assert module.digest() == random_module(bert, CARDS["classification"]).digest()
    turned = module.head.card.model_copy(update={"labels": LABELS[::-1]})  # type: ignore[union-attr]
    others = [
        module.with_head(None),
        module.with_head(random_head(bert, CARDS["classification"], seed=5)),
        module.with_head(replace(module.head, card=turned)),  # type: ignore[type-var]
    ]
    assert len({module.digest(), *(other.digest() for other in others)}) == 4


# Merging and embedding


@pytest.mark.parametrize("space", list(SPACES))
def test_a_merge_has_no_head(bert: EncoderBackbone, space: str, tmp_path: Path) -> None:
    modules = [random_module(bert, CARDS[task], seed=seed) for seed, task in enumerate(TASKS)]
    for weights in ([0.5, 0.25, 0.25], [1.0, 0.0, 0.0]):
        merged = merge(modules, weights, space=space).module
        assert (merged.head, merged.card.head) == (None, None)
        assert not any("classifier" in name for name in merged.state_dict())
        bare = merge([module.with_head(None) for module in modules], weights, space=space).module
        assert_same_parameters(merged, bare)
    save_module(merged, tmp_path / "merged")
    loaded = load_module(tmp_path / "merged")
    assert loaded.head is None
    loaded.check(bert)


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_embedding_does_not_see_the_head(bert: EncoderBackbone, kind: str) -> None:
    module = kind_module(kind, bert, CARDS["span"])
    other = module.with_head(random_head(bert, CARDS["classification"], seed=7))
    assert tuned_parameters(module).tolist() == tuned_parameters(other).tolist()
    assert tuned_parameters(module).tolist() == tuned_parameters(module.with_head(None)).tolist()


def test_stacks_hold_heads_that_answer_alike(bert: EncoderBackbone) -> None:
    two = HeadCard(task="classification", outputs=2, labels=("no", "yes"))
    turned = CARDS["classification"].model_copy(update={"labels": LABELS[::-1]})
    cards = [CARDS["classification"], two, CARDS["span"], CARDS["classification"], turned, CARDS["regression"], None]
    modules = [random_module(bert, card, seed=seed) for seed, card in enumerate(cards)]
    assert stacks(modules, most=8) == [[0, 3], [1], [2], [4], [5], [6]]
