"""AdapterHub's LoRA on BERT and RoBERTa, as its library `adapters` 1.3.0 computed it, and its LoRA before 1.1.0."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from formula import answers, by_formula, formula_backbone
from headstart.backbones import Backbone
from headstart.errors import ModuleError
from headstart.kinds import LoraModule, load_module
from naive import assert_close

LAYERS = {
    "attention.self.query": (32, 32), "attention.self.value": (32, 32), "intermediate.dense": (32, 48),
    "output.dense": (48, 32),
}  # fmt: skip
"""The layers of a block that q, v, `intermediate_lora` and `output_lora` adapt: widths of input and output."""

GOLDEN = {
    ("bert", "1.3.0"): ((-0.227017, 0.270419, 0.617468), (-0.25102, 0.291221, 0.672574)),
    ("bert", "1.0.1"): ((-0.145024, 0.330885, 0.625882), (0.13392, 0.44502, 0.517591)),
    ("roberta", "1.3.0"): ((-0.333222, 0.105177, 0.601024), (-0.422764, -0.062349, 0.440084)),
    ("roberta", "1.0.1"): ((-0.375277, 0.03026, 0.531064), (-0.381612, 0.00416, 0.498375)),
}
"""By family and stated version: the logits of the library 1.3.0 with r = 4 and α = 12 and tensors `by_formula`."""


@pytest.fixture(scope="module", params=["bert", "roberta"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return formula_backbone(request.param)


def saved(folder: Path, family: str, *, version: str = "1.3.0", whole_names: bool = True) -> Path:
    """A folder as `save_adapter` writes it; a bare encoder's names lack the name of the base."""
    method: dict[str, Any] = {
        "architecture": "lora", "alpha": 12, "attn_matrices": ["q", "v"], "composition_mode": "add", "dropout": 0.0,
        "init_weights": "lora", "intermediate_lora": True, "leave_out": [], "output_lora": True, "r": 4,
        "selfattn_lora": True, "use_dora": False, "use_gating": False,
    }  # fmt: skip
    config = {"config": method, "hidden_size": 32, "model_type": family, "name": "m", "version": f"adapters.{version}"}
    tensors = {}
    for number in range(2):
        for layer, (inputs, outputs) in LAYERS.items():
            start = f"{family}.encoder.layer.{number}.{layer}.loras.m"
            for end, shape in (("lora_A", (4, inputs)), ("lora_B", (outputs, 4))):
                name = f"{start}.{end}"
                stored = name if whole_names else name.removeprefix(f"{family}.")
                tensors[stored] = by_formula(name, torch.empty(shape))
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.save(tensors, folder / "pytorch_adapter.bin")
    return folder


@pytest.mark.parametrize("whole_names", [True, False])
@pytest.mark.parametrize("version", ["1.3.0", "1.0.1"])
def test_adapterhub_computes_the_same(backbone: Backbone, tmp_path: Path, version: str, whole_names: bool) -> None:
    module = load_module(saved(tmp_path / "m", backbone.name, version=version, whole_names=whole_names))
    assert isinstance(module, LoraModule)
    module.check(backbone)
    assert module.card.scaling == (3.0 if version == "1.3.0" else 1.0)
    assert_close(answers(backbone, [module])[0], torch.tensor(GOLDEN[backbone.name, version]), within=2e-6)


def test_a_layer_too_few(backbone: Backbone, tmp_path: Path) -> None:
    module = load_module(saved(tmp_path / "m", backbone.name))
    assert isinstance(module, LoraModule)
    few = {path: factors for path, factors in module.factors.items() if "layer.1.output" not in path}
    with pytest.raises(
        ModuleError, match=r"names \w+\.encoder\.layer\.1\.output\.dense in target_modules but holds no"
    ):
        replace(module, factors=few).check(backbone)
