"""Bottleneck adapters in encoders that normalize behind a sublayer: against a float64 reference and `adapters` 1.3."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from formula import IDS, answers, by_formula, formula_backbone
from headstart.backbones import Backbone
from headstart.errors import ModuleError
from headstart.formats import adapter_layout, read_module
from headstart.formats.libraries.adapterhub_adapter import NAMES
from headstart.kinds import AdapterModule, AdapterSettings, load_module, save_module
from headstart.kinds.adapter import ACTIVATIONS
from headstart.kinds.placement import PLACEMENTS
from naive import assert_close, assert_same_parameters, assert_untouched, photograph

DESIGNS: dict[str, tuple[str, dict[str, Any], str]] = {
    "houlsby": ("houlsby", {}, "output"),
    "pfeiffer": ("pfeiffer", {}, "normed"),
    "pewe": ("pewe", {}, "output"),
    "parallel": ("houlsby", {"is_parallel": True, "scaling": 0.5, "non_linearity": "gelu_new"}, "residual"),
    "plus": ("pfeiffer", {"original_ln_after": False, "residual_before_ln": False, "non_linearity": "gelu"}, "behind"),
}
"""By design: the placement that it begins from, AdapterHub's fields that differ, and what its adapters read."""

GOLDEN = {
    "bert": {
        "houlsby": ((-0.006078, 0.319558, 0.47), (0.037653, 0.333059, 0.446456)),
        "pfeiffer": ((0.070948, 0.402361, 0.516781), (0.120332, 0.423643, 0.499217)),
        "pewe": ((-0.055708, 0.328151, 0.532479), (-0.019628, 0.321549, 0.486527)),
        "parallel": ((-0.010325, 0.310882, 0.461275), (0.033976, 0.327175, 0.441335)),
        "plus": ((-0.038671, 0.288207, 0.455719), (0.165936, 0.439163, 0.476819)),
    },
    "roberta": {
        "houlsby": ((-0.335024, 0.150662, 0.670833), (-0.232362, 0.317666, 0.817873)),
        "pfeiffer": ((-0.305727, 0.202027, 0.718336), (-0.254688, 0.273632, 0.774359)),
        "pewe": ((-0.378162, 0.022506, 0.522356), (-0.363906, 0.033222, 0.524121)),
        "parallel": ((-0.362978, 0.100371, 0.623593), (-0.355166, 0.095744, 0.608862)),
        "plus": ((-0.253636, 0.280428, 0.783468), (-0.106338, 0.50862, 0.977358)),
    },
}
"""The logits that the library `adapters` 1.3.0 computed for `IDS` with transformers 4.57.6 and torch 2.13.0."""


@pytest.fixture(scope="module", params=["bert", "roberta"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return formula_backbone(request.param)


def made(backbone: Backbone, folder: Path, design: str) -> AdapterModule:
    """A module whose tensors are `by_formula`, read from the folder of such a design."""
    placement, changes, _ = DESIGNS[design]
    module = AdapterModule.fresh(backbone, AdapterSettings(bottleneck=8, placement=placement), name="m", seed=0)
    values = [by_formula(name, value) for name, value in module.state_dict().items()]
    module = module.with_parameters(dict(zip(module.parameters(), values, strict=True)))
    config = {**module.config, "config": module.config["config"] | changes}
    card = module.card.model_copy(update={"scaling": changes.get("scaling", 1.0)})
    save_module(replace(module, config=config, card=card), folder)
    loaded = load_module(folder)
    assert isinstance(loaded, AdapterModule)
    loaded.check(backbone)
    return loaded


class Adapted:
    """A float64 copy of the backbone whose layers that end a sublayer compute as AdapterHub's documentation says.

    With h the sublayer's output, e the residual stream, N the layer norm and a the adapter:
    N(h + a(h) + e), N(h + a(N(h + e)) + e), N(h + a(e) + e), and N(h + e) + a(N(h + e)).
    """

    def __init__(self, backbone: Backbone, module: AdapterModule) -> None:
        self.model = copy.deepcopy(backbone.model).double()
        self.leaves = {name: value.double().clone().requires_grad_(True) for name, value in module.parameters().items()}
        self.computation = module.computation
        for path in module.sizes:
            layer = self.model.get_submodule(path.removesuffix(".dense"))
            layer.forward = self.ending(path, layer)

    def ending(self, path: str, layer: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        act = ACTIVATIONS[self.computation.activation]

        def a(x: Tensor) -> Tensor:
            found = {part: self.leaves.get(f"{path}.{part}", 0) for part in NAMES}
            inner = act(x @ found["down"].T + found["down_bias"])
            return self.computation.factor * (inner @ found["up"].T + found["up_bias"])

        def forward(hidden: Tensor, e: Tensor) -> Tensor:
            h, norm = layer.dense(hidden), layer.LayerNorm
            y = norm(h + e)
            return {
                "output": lambda: norm(h + a(h) + e),
                "normed": lambda: norm(h + a(y) + e),
                "residual": lambda: norm(h + a(e) + e),
                "behind": lambda: y + a(y),
            }[self.computation.reads]()

        return forward

    def logits(self) -> Tensor:
        return self.model(input_ids=IDS, attention_mask=(IDS != 1).long()).logits


@pytest.mark.parametrize("design", DESIGNS)
def test_adapterhub_computes_the_same(backbone: Backbone, tmp_path: Path, design: str) -> None:
    module = made(backbone, tmp_path / "m", design)
    assert module.computation.reads == DESIGNS[design][2]
    golden = torch.tensor(GOLDEN[backbone.name][design])
    assert (golden - answers(backbone, [])[0]).abs().max() > 5e-3, "it must do something for this to say anything"
    assert_close(answers(backbone, [module])[0], golden, within=2e-6)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_float64_reference_computes_the_same(backbone: Backbone, tmp_path: Path, design: str) -> None:
    one = made(backbone, tmp_path / "m", design)
    two = one.with_parameters({name: value.flip(0) for name, value in one.parameters().items()})
    found = answers(backbone, [one, two])
    for row, module in zip(found, (one, two), strict=True):
        assert_close(row, Adapted(backbone, module).logits(), within=1e-5)
        assert_close(row, answers(backbone, [module])[0], within=1e-6)
    assert (found[0] - found[1]).abs().max() > 1e-3, "the modules must differ for this to say anything"


@pytest.mark.parametrize("design", DESIGNS)
def test_gradients(backbone: Backbone, tmp_path: Path, design: str) -> None:
    module = made(backbone, tmp_path / "m", design)
    modules = [module, module.with_parameters({name: value.flip(0) for name, value in module.parameters().items()})]
    stack, ids = AdapterModule.stack(modules, backbone), IDS.repeat(2, 1)
    with stack.attach(backbone), stack.gradients():
        backbone.model(input_ids=ids, attention_mask=(ids != 1).long()).logits.square().sum().backward()
        together = {name: value.grad.clone() for name, value in stack.parameters.items() if value.grad is not None}
    for index, one in enumerate(modules):
        plain = Adapted(backbone, one)
        plain.logits().square().sum().backward()
        assert together.keys() == plain.leaves.keys()
        for name, gradient in together.items():
            expected = plain.leaves[name].grad
            assert expected is not None
            assert_close(gradient[index], expected, within=1e-5 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_fresh_module_changes_nothing_and_leaves_no_trace(backbone: Backbone, placement: str) -> None:
    before = photograph(backbone)
    with torch.inference_mode():
        bare = backbone.model(input_ids=IDS, attention_mask=(IDS != 1).long()).logits
    fresh = AdapterModule.fresh(backbone, AdapterSettings(placement=placement), name="m", seed=0)
    fresh.check(backbone)
    assert_close(answers(backbone, [fresh])[0], bare, within=1e-6)
    assert len(fresh.sizes) == (2 if placement == "pfeiffer" else 4)
    assert_untouched(backbone, before)


def test_what_is_saved_loads(backbone: Backbone, tmp_path: Path) -> None:
    module = made(backbone, tmp_path / "m", "pfeiffer")
    saved = save_module(module, tmp_path / "again")
    again = load_module(tmp_path / "again")
    assert_same_parameters(again, module)
    assert again.digest() == module.digest()
    assert saved.card.targets == tuple(f"{backbone.name}.encoder.layer.{number}.output.dense" for number in range(2))


def test_adapters_of_a_bare_encoder_are_those_of_one_with_a_head(backbone: Backbone, tmp_path: Path) -> None:
    # The library leaves out the base's name where it saved the encoder alone.
    made(backbone, tmp_path / "m", "houlsby")
    stored = read_module(tmp_path / "m")
    bare = {name.removeprefix(f"{backbone.name}."): tensor.shape for name, tensor in stored.tensors.items()}
    assert adapter_layout(stored.config, bare).sites.keys() == stored.layout.widths.keys()


def test_another_number_of_layers(backbone: Backbone, tmp_path: Path) -> None:
    module = made(backbone, tmp_path / "m", "pfeiffer")
    few = {name: value for name, value in module.values.items() if ".0." in name}
    with pytest.raises(ModuleError, match=r"sets output_adapter but holds no tensors for \S+layer\.1\.output\.dense"):
        replace(module, values=few).check(backbone)
