"""The conformance suite: kinds keep the contract, those that do not are caught, and docs/support.md is current."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from headstart import registry
from headstart.backbones import Backbone, Encoded
from headstart.errors import ModuleError
from headstart.formats import READERS, FolderReader, lora_layout
from headstart.kinds import KINDS, LoraModule, Module, fresh_module, load_module, save_module
from headstart.kinds.lora import LoraStack
from headstart.testing import BACKBONES, CHECKS, Outcome, check_kind, tiny_backbone
from headstart.testing.case import copied
from headstart.testing.conformance import FIRST
from naive import plain_logits

REFUSED = {
    ("lora", "gpt2", "AdapterHub folder"): "adapts a layer that Headstart does not know",
    **{("ia3", name, "AdapterHub folder"): "is not read yet" for name in BACKBONES},
    **{("prefix", name, "AdapterHub folder"): "is not read for" for name in ("llama", "gpt2")},
    **{("prompt", name, "AdapterHub folder"): "is not read yet" for name in BACKBONES},
    ("bitfit", "llama", FIRST): "tiny-llama has no bias terms",
    ("bitfit", "t5", FIRST): "tiny-t5 has no bias terms",
}
"""By kind, backbone and check: a part of the reason. Everything else passes, or there is nothing to look at."""

ENCODERS, BIASED = ("bert", "roberta"), ("gpt2", "bert", "roberta")
SKIPPED = {
    **{(kind, name, "options"): "an encoder answers through its head" for kind in KINDS for name in ENCODERS},
    **{("prompt", name, "layer count"): "the same for any number of layers" for name in BACKBONES},
    **{("adapter", name, check): "not in PEFT" for name in BACKBONES for check in ("PEFT folder", "PEFT saves it")},
    **{("bitfit", name, check): "not in PEFT" for name in BIASED for check in ("PEFT folder", "PEFT saves it")},
    **{("bitfit", name, "AdapterHub folder"): "AdapterHub has no such kind" for name in BIASED},
    **{
        (kind, name, "OpenDelta folder"): "OpenDelta has another"
        for kind in ("ia3", "prefix", "prompt")
        for name in BACKBONES
    },
}

SAVED = "PEFT saves it"

checked = cache(check_kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_keeps_the_contract(kind: str) -> None:
    outcomes = checked(kind)
    assert [outcome for outcome in outcomes if outcome.result == "failed"] == []
    for result, expected in (("refused", REFUSED), ("skipped", SKIPPED)):
        found = {(o.kind, o.backbone, o.check): o.detail for o in outcomes if o.result == result}
        wanted = {place: reason for place, reason in expected.items() if place[0] == kind}
        assert found.keys() == wanted.keys()
        for place, reason in wanted.items():
            assert reason in found[place]
    for backbone in BACKBONES:
        names = [outcome.check for outcome in outcomes if outcome.backbone == backbone]
        assert names in ([FIRST], [FIRST, *CHECKS])


@pytest.mark.parametrize(
    ("kind", "shape", "backbone"),
    [
        ("lora", {"rank": 3, "alpha": 5.0, "targets": ("lm_head", "down_proj")}, "llama"),
        ("lora", {"targets": ("mlp.c_proj", "c_fc")}, "gpt2"),
        ("ia3", {"targets": ("o_proj", "down_proj")}, "llama"),
        ("prefix", {"length": 3, "reparametrized": True, "bottleneck": 5}, "t5"),
        ("adapter", {"placement": "pfeiffer", "bottleneck": 5, "activation": "gelu"}, "t5"),
        ("adapter", {"placement": "houlsby", "biases": False}, "llama"),
        ("bitfit", {"targets": ("c_attn", "ln_2")}, "gpt2"),
    ],
)
def test_so_do_its_variants(kind: str, shape: dict[str, Any], backbone: str) -> None:
    outcomes = check_kind(kind, backbones=[backbone], shape=shape)
    assert [o for o in outcomes if o.result == "failed"] == []
    assert [o.check for o in outcomes] == [FIRST, *CHECKS]


# Kinds that break the contract


class HookLeft(LoraModule):
    """Detaching forgets the first hook."""

    class Stack(LoraStack):
        @contextlib.contextmanager
        def attach(self, backbone: Backbone) -> Iterator[None]:
            layer = backbone.model.get_submodule(next(iter(self.scaling)))
            layer.register_forward_hook(lambda *_: None)
            with super().attach(backbone):
                yield


class HookLeftByAnError(LoraModule):
    """Detaching is forgotten only when an exception ends the block."""

    class Stack(LoraStack):
        @contextlib.contextmanager
        def attach(self, backbone: Backbone) -> Iterator[None]:
            handle = backbone.head.register_forward_hook(lambda *_: None)
            with super().attach(backbone):
                yield
            handle.remove()


class WeightRounded(LoraModule):
    """Detaching gives a weight back with the last bits lost, as subtracting what was added does."""

    class Stack(LoraStack):
        @contextlib.contextmanager
        def attach(self, backbone: Backbone) -> Iterator[None]:
            weight = backbone.model.get_submodule(next(iter(self.scaling))).get_parameter("weight")
            with super().attach(backbone):
                yield
            weight.copy_((weight + 7) - 7)


class Mixed(LoraModule):
    """Every module of a stack computes with the average of the scaling; rows of one reach the other."""

    class Stack(LoraStack):
        def _add_update(self, path: str, layer: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            changed = super()._add_update(path, layer, args, output)
            return 0.9 * changed + 0.1 * changed.flip(0)


class Reversed(LoraModule):
    """The stack takes its modules from the end."""

    class Stack(LoraStack):
        def __init__(self, modules: Sequence[LoraModule], **where: Any) -> None:
            super().__init__(list(modules)[::-1], **where)


class Steep(LoraModule):
    """The right function with twice the gradient of every update."""

    class Stack(LoraStack):
        def _add_update(self, path: str, layer: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            changed = super()._add_update(path, layer, args, output)
            return changed + changed - changed.detach()


class Faint(LoraModule):
    """Every update is a thousandth too small, wherever it is computed here."""

    class Stack(LoraStack):
        def _add_update(self, path: str, layer: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            before = output.clone()  # the update is added in place
            return before + 0.999 * (super()._add_update(path, layer, args, output) - before)


class SharedGradient(LoraModule):
    """Each module's gradient is clipped by the norm over the whole stack."""

    class Stack(LoraStack):
        @contextlib.contextmanager
        def gradients(self) -> Iterator[None]:
            handles = []
            with super().gradients():
                handles += [value.register_hook(lambda grad: grad / grad.norm()) for value in self.parameters.values()]
                yield
            for handle in handles:
                handle.remove()


class Drifting(LoraModule):
    """Parameters that are put in come out a little larger."""

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Any:
        return super().with_parameters({name: value * 1.001 for name, value in parameters.items()})


class Unscaled(LoraModule):
    """The scaling is saved in the factors and in the configuration."""

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value * 2 if "lora_B" in name else value for name, value in super().state_dict().items()}


class Careless(LoraModule):
    """Nothing is checked against the backbone."""

    def check(self, backbone: Backbone) -> None:
        pass


class Idle(LoraModule):
    """Attached, it does nothing."""

    class Stack(LoraStack):
        @contextlib.contextmanager
        def attach(self, backbone: Backbone) -> Iterator[None]:
            yield


class Crashing(LoraModule):
    """Its stack ends with an error of the kind's own."""

    class Stack(LoraStack):
        def __init__(self, modules: Sequence[LoraModule], **where: Any) -> None:
            raise RuntimeError("no more\nroom")


def broken(family: type[LoraModule]) -> type[LoraModule]:
    """The class with its own `Stack`, where it has one."""
    own = getattr(family, "Stack", LoraStack)

    def stack(cls: Any, modules: Any, backbone: Backbone, *, dtype: torch.dtype | None = None) -> LoraStack:
        return own(modules, device=backbone.device, dtype=dtype or backbone.dtype)

    family.stack = classmethod(stack)  # type: ignore[assignment, method-assign]
    return family


@pytest.mark.parametrize(
    ("family", "check", "detail"),
    [
        (HookLeft, "attach and detach", "detached: a hook is left on model.layers.0.self_attn.q_proj"),
        (HookLeftByAnError, "attach and detach", "an exception in the block: a hook is left on lm_head"),
        (WeightRounded, "attach and detach", "detached: model.layers.0.self_attn.q_proj.weight changed"),
        (Mixed, "stack", "module 0 of the stack: "),
        (Reversed, "stack", "module 0 of the stack: "),
        (Steep, "gradient", "finite differences"),
        (Faint, "float64 reference", "float64: "),
        (SharedGradient, "gradients together", "gradient of "),
        (Drifting, "merge", "model.layers.0.self_attn.q_proj.a: "),
        (Unscaled, "save and load", "is another one after loading"),
        (Unscaled, "PEFT folder", "logits of PEFT: "),
        (Careless, "layer count", "loaded without a word: "),
        (Idle, "attach and detach", "a module whose parameters were moved does nothing"),
        (Crashing, "stack", "RuntimeError: no more room"),
    ],
)
def test_a_broken_kind_is_caught(
    monkeypatch: pytest.MonkeyPatch, family: type[LoraModule], check: str, detail: str
) -> None:
    monkeypatch.setitem(KINDS._loaded, "lora", broken(family))
    failed = {o.check: o.detail for o in check_kind("lora", backbones=["llama"]) if o.result == "failed"}
    assert check in failed
    assert detail in failed[check]


class Plugin(LoraModule):
    """A kind of another package."""

    kind = "my-lora"


PLUGIN_FOLDERS = FolderReader("my-lora", lora_layout)


class Shy(Plugin):
    """A kind that refuses every backbone, by name."""

    def check(self, backbone: Backbone) -> None:
        raise ModuleError(f"{backbone.name} is no backbone for it; use another kind")


class Points:
    """Stands for the entry points of installed packages."""

    loaded: ClassVar = [
        EntryPoint("my-lora", f"{__name__}:Plugin", "headstart.kinds"),
        EntryPoint("shy", f"{__name__}:Shy", "headstart.kinds"),
        EntryPoint("MY_LORA", f"{__name__}:PLUGIN_FOLDERS", "headstart.folders"),
    ]

    def __call__(self, group: str) -> list[EntryPoint]:
        return [point for point in self.loaded if point.group == group]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registries as in an environment with those packages, and afterwards as before."""
    monkeypatch.setattr(registry, "points_of", Points())
    for family in (KINDS, READERS):
        monkeypatch.setattr(family, "_loaded", dict(family._loaded))
        monkeypatch.setitem(vars(family), "_plugins", {p.name: [p] for p in Points()(family.group or "")})


@pytest.mark.usefixtures("plugins")
def test_a_plugin_is_checked_by_its_name() -> None:
    outcomes = check_kind("my-lora", backbones=["llama"])
    assert {o.result for o in outcomes} == {"passed", "skipped"}
    assert [(o.check, o.detail) for o in outcomes if o.result == "skipped"] == [
        ("AdapterHub folder", "AdapterHub has no such kind"),
        ("OpenDelta folder", "OpenDelta has another such kind, or none"),
    ]
    assert check_kind("shy", backbones=["t5"]) == [
        Outcome("shy", "t5", FIRST, "refused", "tiny-t5 is no backbone for it; use another kind")
    ]


@pytest.mark.usefixtures("plugins")
def test_a_plugin_s_folders_are_read_as_its_kind(tmp_path: Path) -> None:
    module = fresh_module("lora", tiny_backbone("llama"), {}, name="m", seed=0)
    folder = tmp_path / "m"
    save_module(replace(module, config={**module.config, "peft_type": "MY_LORA"}), folder)
    (folder / "headstart.json").unlink()
    loaded = load_module(folder)
    assert type(loaded) is Plugin
    assert loaded.card.kind == "my-lora"
    assert loaded.digest() == replace(module, config={**module.config, "peft_type": "MY_LORA"}).digest()


def test_a_folder_of_no_reader_names_them_all(tmp_path: Path) -> None:
    save_module(fresh_module("lora", tiny_backbone("llama"), {}, name="m", seed=0), tmp_path / "m")
    path = tmp_path / "m" / "adapter_config.json"
    path.write_text(path.read_text().replace('"LORA"', '"MY_LORA"'))
    with pytest.raises(ModuleError, match="peft_type 'MY_LORA' is not supported; supported: LORA, IA3"):
        load_module(tmp_path / "m")


def merged(module: Module, double: Backbone, item: Encoded) -> Tensor:
    """LoRA by hand: its update in the weights themselves."""
    assert isinstance(module, LoraModule)
    for path, factor in module.factors.items():
        weight = double.model.get_submodule(path).weight
        weight.data += factor.scaling * (factor.b.double() @ factor.a.double())
    return plain_logits(double.model, item)


@pytest.mark.parametrize(("strength", "result"), [(1.0, "passed"), (0.999, "failed")])
def test_a_kind_is_compared_with_a_reference_of_its_own(strength: float, result: str) -> None:
    def reference(module: Module, double: Backbone, item: Encoded) -> Tensor:
        parameters = {name: value * strength for name, value in module.parameters().items()}
        return merged(module.with_parameters(parameters), copied(double), item)

    outcomes = check_kind("lora", backbones=["llama"], reference=reference)
    assert {o.check: o.result for o in outcomes}["float64 reference"] == result
