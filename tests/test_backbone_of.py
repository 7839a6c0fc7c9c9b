"""A backbone around a model that the caller has loaded: equal to the one from a folder, and given back as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from encoders import encoder, write
from headstart.backbones import Backbone, BackboneInput, EncoderBackbone
from headstart.errors import BackboneError, SettingError
from headstart.ranking.rank import rank
from headstart.tasks import Task
from headstart.tuning.tune import tune
from naive import encoded
from small_hub import RECIPE, write_hub, write_task

SHORT = RECIPE.change(max_steps=2, eval_every=2)
MODELS = {"tiny-llama": AutoModelForCausalLM, "tiny-gpt2": AutoModelForCausalLM, "tiny-t5": AutoModelForSeq2SeqLM}


def given(folder: Path) -> tuple[PreTrainedModel, Any]:
    model = MODELS.get(folder.name, AutoModelForSequenceClassification).from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(encoder("bert"), tmp_path_factory.mktemp("backbone") / "tiny-bert")


def test_it_is_the_backbone_that_loading_gives(folder: Path, backbone: Backbone) -> None:
    made = Backbone.of(*given(folder))
    assert type(made) is type(backbone)
    assert made.name == backbone.name
    assert BackboneInput.of(made) == BackboneInput.of(backbone)
    items = encoded(backbone)
    with torch.inference_mode():
        assert torch.equal(
            made.target_logits(made.batch(items, [0, 1])), backbone.target_logits(backbone.batch(items, [0, 1]))
        )


def test_an_encoder_becomes_an_encoder(bert: Path) -> None:
    made = Backbone.of(*given(bert), name="mine")
    assert isinstance(made, EncoderBackbone)
    assert (made.name, BackboneInput.of(made)) == ("mine", BackboneInput.of(Backbone.load(bert, dtype="float32")))


def test_the_model_is_not_copied_and_is_given_back_as_it_was(tiny_llama: Path, tmp_path: Path) -> None:
    model, tokenizer = given(tiny_llama)
    model.train()
    model.model.layers[1].eval()
    model.lm_head.weight.requires_grad_(False)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    flags = {name: value.requires_grad for name, value in model.named_parameters()}
    modes = {name: layer.training for name, layer in model.named_modules()}
    task = Task.load(write_task(tmp_path / "task"))
    hub = write_hub(tmp_path / "hub", Backbone.load(tiny_llama, dtype="float32"))
    with Backbone.of(model, tokenizer) as backbone:
        assert backbone.model is model
        assert not any(value.requires_grad for value in model.parameters())
        assert not model.training
        rank(task, hub, backbone, indicators=("loss", "grand"), recipe=SHORT, store=False)
        tune(task, backbone, recipe=SHORT, store=False)
    assert {name: value.requires_grad for name, value in model.named_parameters()} == flags
    assert {name: layer.training for name, layer in model.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_scores_are_those_of_the_loaded_backbone(tiny_llama: Path, tmp_path: Path) -> None:
    task, loaded = Task.load(write_task(tmp_path / "task")), Backbone.load(tiny_llama, dtype="float32")
    hub = write_hub(tmp_path / "hub", loaded)
    found = rank(task, hub, Backbone.of(*given(tiny_llama)), recipe=SHORT, store=False)
    assert found.scores == rank(task, hub, loaded, recipe=SHORT, store=False).scores


def test_the_name_of_a_folder_that_is_gone_shows_nothing_else_of_its_path(tiny_llama: Path) -> None:
    model, tokenizer = given(tiny_llama)
    for origin, name in (("/home/ada/private/llama", "llama"), ("meta/llama", "meta/llama"), ("", "LlamaForCausalLM")):
        model.name_or_path = origin
        assert Backbone.of(model, tokenizer).name == name


def test_another_process_is_told_to_load_it(tiny_llama: Path, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path / "task"))
    with pytest.raises(
        SettingError, match=r"name the backbone instead of passing a loaded one, or use engine 'serial'"
    ):
        tune(task, Backbone.of(*given(tiny_llama)), recipe=SHORT, store=tmp_path / "store", engine="processes=2")


# What is refused


def with_lora(model: PreTrainedModel) -> Any:
    return get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))


def with_prompt(model: PreTrainedModel) -> Any:
    return get_peft_model(model, PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))


def with_adapter(model: PreTrainedModel) -> Any:
    model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    return model


def packed(model: PreTrainedModel) -> Any:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.to(torch.int8), requires_grad=False)
    return model


def marked(model: PreTrainedModel) -> Any:
    model.hf_quantizer = object()
    return model


def mixed(model: PreTrainedModel) -> Any:
    model.lm_head.to(torch.bfloat16)
    return model


PEFT_MODEL = (
    "model is a PeftModelForCausalLM, a backbone with modules in it; read each module with load_module(model), then "
    "give the model alone, as Backbone.of(model.unload(), tokenizer)"
)
PLAIN = ", and modules are computed beside plain weights; load it without quantization"
REFUSED: dict[str, tuple[Callable[[PreTrainedModel], Any], str]] = {
    "LoRA": (with_lora, PEFT_MODEL),
    "a soft prompt": (with_prompt, PEFT_MODEL),
    "transformers' own adapter": (
        with_adapter,
        "LlamaForCausalLM holds layers of PEFT; remove them with delete_adapter or unload, or load it anew",
    ),
    "layers left by PEFT": (
        lambda model: with_lora(model).base_model.model,
        "LlamaForCausalLM holds layers of PEFT; remove them with delete_adapter or unload, or load it anew",
    ),
    "packed weights": (packed, f"LlamaForCausalLM is quantized (int8){PLAIN}"),
    "weights in other layers' hands": (
        marked,
        f"LlamaForCausalLM is quantized{PLAIN}",
    ),
    "two dtypes": (
        mixed, "LlamaForCausalLM computes in bfloat16 and float32; give it one dtype, as model.to(torch.float32)"
    ),
    "no weights": (
        lambda model: model.to("meta"),
        "LlamaForCausalLM is not on one device; load it without device_map, or move it with model.to",
    ),
    "no head": (
        lambda model: model.model,
        "LlamaModel is not LlamaForCausalLM, which Headstart runs; load the model with AutoModelForCausalLM",
    ),
    "text": (lambda _: "llama", "model is a str; give a transformers model, or load one with Backbone.load"),
    "plain torch": (
        lambda _: torch.nn.Linear(2, 2), "model is a Linear; give a transformers model, or load one with Backbone.load"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_as_it_is(case: str, tiny_llama: Path) -> None:
    change, said = REFUSED[case]
    model, tokenizer = given(tiny_llama)
    with pytest.raises(BackboneError) as caught:
        Backbone.of(change(model), tokenizer)
    assert str(caught.value) == said


def test_an_encoder_without_a_classifier(bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    for family in (AutoModelForMaskedLM, AutoModel):
        model = family.from_pretrained(bert)
        said = "is not BertForSequenceClassification, which Headstart runs; load the model with AutoModelForSeq"
        with pytest.raises(BackboneError, match=said):
            Backbone.of(model, tokenizer)


def test_tokenizers_are_held_to_the_same_rules(tiny_llama: Path) -> None:
    model, tokenizer = given(tiny_llama)
    with pytest.raises(BackboneError, match=r"^tokenizer is a dict; give the model's own"):
        Backbone.of(model, {})
    tokenizer.add_tokens(["zebra"])
    tokenizer.eos_token = None
    with pytest.raises(BackboneError, match="the tokenizer of LlamaForCausalLM has no end-of-sequence token"):
        Backbone.of(model, tokenizer)


def test_a_model_for_another_class(tiny_llama: Path) -> None:
    model, tokenizer = given(tiny_llama)
    with pytest.raises(BackboneError, match=r"LlamaForCausalLM is no model that EncoderBackbone runs; give it to"):
        EncoderBackbone.of(model, tokenizer)
    assert model.lm_head.weight.requires_grad
