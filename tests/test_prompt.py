"""Prompt tuning: against arithmetic by hand, other architectures against PEFT, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import made_by_peft
import virtual
from headstart.backbones import Backbone
from headstart.errors import BackboneError, ModuleError
from headstart.formats import PromptLayout, prompt_layout
from headstart.formats.libraries.peft_prompt import FIELDS
from headstart.kinds import PromptModule, PromptSettings, fresh_module, load_module, save_module
from naive import BACKBONES, assert_close, load
from virtual import LENGTH, encoded, from_peft, random_module

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CONFIG = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "token_dim": 4}
SHAPES: dict[str, tuple[int, ...]] = {"prompt_embeddings": (3, 4)}


# What it computes


@pytest.mark.parametrize("name", BACKBONES)
def test_rows_stand_before_the_embedded_input(name: str, request: pytest.FixtureRequest) -> None:
    # The model's own forward pass in float64 over [rows, embeddings], one unpadded example at a time.
    backbone = load(request.getfixturevalue(name))
    modules = [random_module("prompt", backbone, seed=seed) for seed in (1, 2)]
    items = encoded(backbone)
    found = made_by_peft.ours(backbone, modules, items)
    backbone.model.double()
    words = backbone.model.get_input_embeddings().weight
    for row, module in zip(found, modules, strict=True):
        assert isinstance(module, PromptModule)
        expected = []
        for item in items:
            text = item.prompt if backbone.seq2seq else item.prompt + item.target[:-1]
            whole = torch.cat([module.values["prompt"].double(), words[list(text)]])
            inputs: dict[str, Any] = {"inputs_embeds": whole[None]}
            if backbone.seq2seq:
                start = backbone.model.config.decoder_start_token_id
                inputs["decoder_input_ids"] = torch.tensor([[start, *item.target[:-1]]])
            with torch.inference_mode():
                expected.append(backbone.model(**inputs).logits[0, -len(item.target) :])
        assert_close(row, torch.cat(expected), within=2e-4)


def test_a_prompt_of_the_text_s_own_tokens_is_text(llama: Backbone) -> None:
    # The embeddings of the first words, taken from the text and put into a prompt, leave every logit as it was.
    (item,) = encoded(llama)[:1]
    head, tail = item.prompt[:4], dataclasses.replace(item, prompt=item.prompt[4:])
    rows = llama.model.get_input_embeddings().weight[list(head)].detach().clone()
    module = PromptModule.build(rows, name="head", backbone=llama)
    with torch.inference_mode():
        whole = llama.target_logits(llama.batch([item], [0]))
    assert_close(made_by_peft.ours(llama, [module], [tail]), whole, within=1e-5)


def others() -> dict[str, Any]:
    from transformers import Gemma2Config, Gemma2ForCausalLM, OPTConfig, OPTForCausalLM

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
    window = {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48, "sliding_window": 6}
    return {
        # its decoder lies inside the model below the head, and embeddings are as wide as the layers
        "opt": (OPTForCausalLM, OPTConfig, {**small, "ffn_dim": 48, "word_embed_proj_dim": 32}),
        # a sliding window, in which padding would take up the room of the prompt
        "gemma2": (Gemma2ForCausalLM, Gemma2Config, small | window),
    }


@pytest.mark.parametrize("name", ["opt", "gemma2"])
def test_other_architectures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, config, settings = others()[name]
    backbone = virtual.tiny_backbone(family, config, tmp_path / name, **settings)
    monkeypatch.setitem(virtual.TYPES, name, "CAUSAL_LM")
    made = virtual.make("prompt", tmp_path / name, tmp_path / "made")
    module, items = load_module(made), encoded(backbone)
    module.check(backbone)
    found = made_by_peft.ours(backbone, [module], items)[0]
    assert_close(found, from_peft(tmp_path / name, made, items), within=3e-5)
    prompts, targets = [item.prompt for item in items], [[item.target] for item in items]
    with torch.inference_mode(), type(module).stack([module], backbone).attach(backbone):
        scores = backbone.option_scores(prompts, targets)[0]
        together = backbone.generate(prompts, max_new_tokens=4)[0]
        assert [backbone.generate([prompt], max_new_tokens=4)[0][0] for prompt in prompts] == together
    log_p = found.log_softmax(-1)
    for item, (score,) in zip(items, scores, strict=True):
        own, log_p = log_p[: len(item.target)], log_p[len(item.target) :]
        assert score == pytest.approx(own[torch.arange(len(own)), torch.tensor(item.target)].sum().item(), abs=1e-4)


# Fresh prompts and folders


def test_a_fresh_prompt_is_made_of_words(llama: Backbone) -> None:
    module = fresh_module("prompt", llama, {}, name="m", seed=1)
    assert isinstance(module, PromptModule)
    assert module.values["prompt"].shape == (PromptSettings().length, 32)
    vocabulary = {tuple(row) for row in llama.model.get_input_embeddings().weight.tolist()}
    assert {tuple(row) for row in module.values["prompt"].tolist()} <= vocabulary
    spread = module.values["prompt"].std().item()
    assert module.reset(seed=1).values["prompt"].std().item() == pytest.approx(spread, rel=0.1)
    assert [vectors.shape for vectors in module.layer_vectors()] == [(1, 20 * 32)]


def test_the_half_that_peft_never_reads_is_dropped(tiny_t5: Path, tmp_path: Path) -> None:
    made = virtual.make("prompt", tiny_t5, tmp_path / "made")
    module = load_module(made)
    assert isinstance(module, PromptModule)
    assert (module.values["prompt"].shape, module.card.parameters) == ((LENGTH, 32), LENGTH * 32)
    saved = save_module(module, tmp_path / "saved")
    assert load_module(tmp_path / "saved").card == saved.card
    once = virtual.make("prompt", tiny_t5, tmp_path / "once", num_transformer_submodules=1)
    assert load_module(once).stack_key == module.stack_key


def test_another_width(llama: Backbone) -> None:
    module = PromptModule.build(torch.ones(2, 31), name="m", backbone=llama)
    with pytest.raises(ModuleError, match=r"prompt of module 'm' is 31 wide and the embeddings of tiny-llama 32; load"):
        module.check(llama)


def test_a_backbone_that_goes_another_way_is_refused(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A hook on a part that is never called would let the prompt do nothing, without a word.
    backbone = load(tiny_llama)
    module = PromptModule.build(torch.ones(2, 32), name="m", backbone=backbone)
    for part in (torch.nn.Identity(), backbone.model):
        monkeypatch.setattr(backbone.model, "get_decoder", lambda part=part: part)
        with pytest.raises(BackboneError, match=r"tiny-llama \(llama\) does not compute through a decoder that Headst"):
            module.check(backbone)
    assert not backbone.model._forward_hooks


# The format


def test_every_field_of_peft_is_known() -> None:
    from peft import PromptTuningConfig

    fields = {field.name for field in dataclasses.fields(PromptTuningConfig)}
    assert FIELDS.harmless | FIELDS.handled | FIELDS.refused.keys() == fields
    assert not FIELDS.harmless & FIELDS.handled
    assert not (FIELDS.harmless | FIELDS.handled) & FIELDS.refused.keys()


def test_a_layout() -> None:
    for task_type in ("CAUSAL_LM", "SEQ_CLS", "QUESTION_ANS"):
        assert prompt_layout(CONFIG | {"task_type": task_type}, SHAPES) == PromptLayout(None, 3, 4, False)
    t5 = CONFIG | {"task_type": "SEQ_2_SEQ_LM"}
    assert prompt_layout(t5, {"prompt_embeddings": (6, 4)}) == PromptLayout(None, 3, 4, True)
    assert prompt_layout(t5 | {"num_transformer_submodules": 1}, SHAPES) == PromptLayout(None, 3, 4, True)


@pytest.mark.parametrize(
    ("changes", "shapes", "text"),
    [
        ({"modules_to_save": ["lm_head"]}, SHAPES, "^field 'modules_to_save' is set: it carries whole layers"),
        ({"magic": 1}, SHAPES, "unknown field 'magic' is set to 1"),
        ({"task_type": None}, SHAPES, "field 'task_type' is None; Headstart uses modules for CAUSAL_LM, SEQ_2_SEQ_L"),
        ({"task_type": "TOKEN_CLS"}, SHAPES, "field 'task_type' is 'TOKEN_CLS'"),
        ({"num_virtual_tokens": None}, SHAPES, "field 'num_virtual_tokens' is None, not a whole number above 0; save"),
        ({"token_dim": True}, SHAPES, "field 'token_dim' is True"),
        ({"num_transformer_submodules": 2}, SHAPES, "'num_transformer_submodules' is 2 for task type CAUSAL_LM, where"),
        ({}, {}, "tensor 'prompt_embeddings' is missing; save it again"),
        ({}, {"prompt_embeddings": (3, 5)}, r"'prompt_embeddings' has shape \(3, 5\) but the configuration says \(3"),
        ({}, SHAPES | {"head": (1,)}, "tensor 'head' is not part of a prompt; train the module without saved heads"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], shapes: dict[str, tuple[int, ...]], text: str) -> None:
    with pytest.raises(ModuleError, match=text):
        prompt_layout(CONFIG | changes, shapes)
