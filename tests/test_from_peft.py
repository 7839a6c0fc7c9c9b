"""Modules out of a `PeftModel` are those that saving it and loading the folder gives."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import PreTrainedModel

from encoders import encoder
from headstart.backbones import Backbone
from headstart.errors import ModuleError
from headstart.kinds import as_module, load_module
from headstart.ranking.rank import rank
from headstart.tasks import Task
from made_by_peft import fresh_model, ours
from naive import encoded, plain_logits
from small_hub import RECIPE, write_task

LM = {"task_type": "CAUSAL_LM"}
CONFIGS: dict[str, PeftConfig] = {
    "LoRA": LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], **LM),
    "LoRA by patterns": LoraConfig(r=3, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, **LM),
    "LoRA with embeddings": LoraConfig(r=3, target_modules=["embed_tokens", "q_proj"], **LM),
    "rsLoRA": LoraConfig(r=3, use_rslora=True, target_modules=["q_proj"], **LM),
    "DoRA": LoraConfig(r=3, use_dora=True, target_modules=["q_proj"], **LM),
    "IA3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **LM),
    "prompt": PromptTuningConfig(num_virtual_tokens=3, **LM),
    "prefix": PrefixTuningConfig(num_virtual_tokens=3, **LM),
    "prefix with projection": PrefixTuningConfig(
        num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8, **LM
    ),
}


def random(model: PreTrainedModel, config: PeftConfig, *, adapter: str = "default") -> PeftModel:
    """PEFT's model with a module whose tuned parameters are all random."""
    made: Any = get_peft_model(model, copy.deepcopy(config), adapter_name=adapter)
    with torch.no_grad():
        for value in made.parameters():
            if value.requires_grad:
                value += torch.empty_like(value).normal_(std=0.2)
    return made


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("kind", CONFIGS)
def test_it_is_what_saving_and_loading_gives(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    model = random(fresh_model(tiny_llama), CONFIGS[kind])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = load_module(model, name="saved")
    model.save_pretrained(tmp_path / "saved")
    same = load_module(tmp_path / "saved")
    assert found.digest() == same.digest()
    assert (type(found), found.card.model_copy(update={"base_model": ""})) == (
        type(same), same.card.model_copy(update={"base_model": ""}),
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "IA3", "prefix"])
def test_it_computes_what_the_model_of_peft_computes(kind: str, tiny_llama: Path, llama: Backbone) -> None:
    model = random(fresh_model(tiny_llama), CONFIGS[kind]).eval()
    items = encoded(llama)[:3]
    with torch.inference_mode():
        expected = torch.cat([plain_logits(model, item) for item in items])
    assert torch.allclose(ours(llama, [load_module(model)], items)[0], expected, atol=1e-4)


def test_an_encoder_s_head_comes_along(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    model = random(copy.deepcopy(encoder("bert").model), config)
    model.save_pretrained(tmp_path / "saved")
    found, same = load_module(model), load_module(tmp_path / "saved")
    assert found.head is not None
    assert found.digest() == same.digest()


def test_one_of_several_adapters(tiny_llama: Path) -> None:
    model = random(fresh_model(tiny_llama), CONFIGS["LoRA"], adapter="ada")
    model.add_adapter("bob", CONFIGS["rsLoRA"])
    model.add_adapter("default", CONFIGS["LoRA by patterns"])
    assert [load_module(model, adapter=name).name for name in ("ada", "bob", "default")] == ["ada", "bob", "default"]
    assert load_module(model).digest() == load_module(model, adapter="ada").digest()
    assert load_module(model, adapter="bob").card.rank == 3
    assert load_module(model, adapter="bob", name="robert").name == "robert"
    with pytest.raises(ModuleError) as caught:
        load_module(model, adapter="cyd")
    assert str(caught.value) == (
        "the PeftModelForCausalLM has no adapter 'cyd'; give adapter= as one of: 'ada', 'bob', 'default'"
    )


def test_it_is_taken_wherever_a_module_is(tiny_llama: Path, llama: Backbone, tmp_path: Path) -> None:
    model = random(fresh_model(tiny_llama), CONFIGS["LoRA"], adapter="ada")
    task = Task.load(write_task(tmp_path / "task"))
    assert as_module(model).load().digest() == load_module(model).digest()
    assert rank(task, [model], llama, indicators="loss", recipe=RECIPE, store=False).scores.names == ("ada",)


def test_peft_s_model_is_not_asked_about_on_the_network(tiny_llama: Path) -> None:
    model = random(fresh_model(tiny_llama), CONFIGS["LoRA"])
    model.peft_config["default"].base_model_name_or_path = "owner/name"  # a look-up would fail this test
    assert load_module(model).card.base_model == "owner/name"


UNSUPPORTED: dict[str, tuple[Callable[[PreTrainedModel], Any], str]] = {
    "another kind": (
        lambda model: random(model, LoHaConfig(r=2, target_modules=["q_proj"], **LM)),
        "adapter 'default'/adapter_config.json: peft_type 'LOHA' is not supported",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_named(case: str, tiny_llama: Path) -> None:
    make, said = UNSUPPORTED[case]
    with pytest.raises(ModuleError) as caught:
        load_module(make(fresh_model(tiny_llama)))
    assert str(caught.value).startswith(said)


def test_a_folder_has_no_adapters(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"source is a PosixPath, which holds one module; leave out adapter 'ada'"):
        load_module(tmp_path, adapter="ada")
