"""Variants that the stack does not compute (DoRA, LoRA with biases): one at a time through PEFT itself."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor

from headstart.backbones import Backbone
from headstart.errors import MergeError, ModuleError
from headstart.formats import StoredModule, Widths
from headstart.formats.libraries.peft_config import PREFIX
from headstart.kinds.contract import Module, Stack, ValuesModule, require_backbone_of
from headstart.kinds.settings import LoraSettings
from headstart.kinds.targets import check_biases, check_layers
from headstart.kinds.tensors import to_torch
from headstart.records import ModuleCard

__all__ = ["PeftModule", "PeftStack"]


BIAS = ".base_layer.bias"


@dataclass(frozen=True, eq=False)
class PeftModule(ValuesModule):
    """A module that PEFT runs: `values` under PEFT's names; `variant` says why ("DoRA")."""

    kind = "lora"
    settings = LoraSettings
    widths: Mapping[str, Widths]
    variant: str

    @classmethod
    def ranked_alone(cls, card: ModuleCard) -> str:
        """Only PEFT knows its parameters."""
        return f"a LoRA variant ({card.variant})"

    @classmethod
    def fresh(cls, backbone: Backbone, settings: LoraSettings, *, name: str, seed: int) -> PeftModule:
        """Not offered: PEFT draws such parameters only while it injects them into a backbone."""
        del backbone, settings, seed
        raise ModuleError(f"'{name}' would be a LoRA variant that cannot be drawn afresh; begin from plain LoRA")

    @classmethod
    def from_stored(cls, stored: StoredModule) -> PeftModule:
        """The module that a validated PEFT folder holds."""
        widths = stored.layout.widths
        values = {name: to_torch(tensor) for name, tensor in stored.tensors.items()}
        return cls(stored.card, stored.config, values, widths, stored.layout.through_peft or "")

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors as they were stored."""
        return dict(self.values)

    def parameters(self) -> dict[str, Tensor]:
        """The values as they were stored, in float32."""
        return {name: value.float() for name, value in self.values.items()}

    def aligned_to(self, other: Module) -> Module:
        """Only for the module itself: an average of such parameters is not the average of the updates."""
        if other is not self:
            raise MergeError(
                f"'{self.name}' is a LoRA variant ({self.variant}) whose parameters have no exact merge with others; "
                "leave it out"
            )
        return self

    def reset(self, *, seed: int) -> PeftModule:
        """Not offered: PEFT draws such parameters only while it injects them into a backbone."""
        del seed
        raise ModuleError(
            f"'{self.name}' is a LoRA variant ({self.variant}) that cannot be drawn afresh; shape it after plain LoRA"
        )

    def check(self, backbone: Backbone) -> None:
        """As for LoRA."""
        require_backbone_of(self.card, backbone)
        check_layers(self.widths, self.config, name=self.name, backbone=backbone, embeddings=True)
        held = {name.removeprefix(PREFIX).removesuffix(BIAS) for name in self.values if name.endswith(BIAS)}
        check_biases(self.widths, held, self.config, name=self.name, backbone=backbone)

    @property
    def stack_key(self) -> Hashable:
        """A unique key: such modules compute one by one."""
        return id(self)

    @classmethod
    def stack(cls, modules: Sequence[Self], backbone: Backbone, *, dtype: torch.dtype | None = None) -> PeftStack:
        """A stack of exactly one."""
        (module,) = modules
        return PeftStack(module, device=backbone.device, dtype=dtype or backbone.dtype)

    def layer_vectors(self) -> tuple[Tensor, ...]:
        """Not defined: these variants hold several different types of parameters."""
        raise ModuleError(
            f"'{self.name}' is a LoRA variant ({self.variant}) without a task embedding; rank it by its predictions, "
            "such as by loss"
        )


class PeftStack(Stack):
    """One module, injected into the backbone by PEFT while it is attached."""

    def __init__(self, module: PeftModule, *, device: torch.device, dtype: torch.dtype) -> None:
        self._module = module
        parameters = {name: value.to(device, dtype).unsqueeze(0) for name, value in module.values.items()}
        super().__init__(1, parameters)

    @contextlib.contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Inject, load, yield, and put every layer, bias and flag of the backbone back."""
        biases = {name: value for name, value in backbone.model.named_parameters() if name.endswith("bias")}
        kept = {name: value.detach().clone() for name, value in biases.items()}
        # PEFT draws random parameters before ours replace them, and warns those who want to train or merge. Neither the
        # caller's random numbers nor the user should notice.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = PeftModel(backbone.model, self._config(), autocast_adapter_dtype=False)
        try:
            values = {name: value[0].detach() for name, value in self.parameters.items()}
            unknown = set_peft_model_state_dict(wrapped, values).unexpected_keys
            if unknown:
                raise ModuleError(
                    f"PEFT has no place for tensor {unknown[0]} of module '{self._module.name}'; "
                    "save it again with PEFT's save_pretrained"
                )
            wrapped.to(backbone.device).eval()
            self._wrapped = wrapped
            yield
        finally:
            wrapped.unload()
            with torch.no_grad():
                for name, value in biases.items():
                    value.copy_(kept[name])
            backbone.model.requires_grad_(False)

    def module(self, index: int) -> PeftModule:
        """The module as it was given."""
        if index:
            raise IndexError(index)
        return self._module

    @contextlib.contextmanager
    def gradients(self) -> Iterator[None]:
        """PEFT's own parameters, including tuned biases, collect the gradients while attached."""
        for name, value in self._wrapped.named_parameters():
            value.requires_grad_("lora_" in name or name in self.parameters)
        try:
            yield
        finally:
            for value in self._wrapped.parameters():
                value.grad = None
                value.requires_grad_(False)

    def squared_gradients(self) -> dict[str, Tensor]:
        """The squared gradient norm of each parameter of PEFT's model, (1,)."""
        found = {name: value.grad for name, value in self._wrapped.named_parameters() if value.grad is not None}
        return {name: value.float().pow(2).sum().cpu().view(1) for name, value in found.items()}

    def _config(self) -> Any:
        """PEFT's configuration; fields unknown to this PEFT were empty, or the module would have been refused."""
        made = PEFT_TYPE_TO_CONFIG_MAPPING[self._module.config["peft_type"]]
        known = {field.name for field in fields(made)} - {"auto_mapping", "lora_dropout", "peft_version", "task_type"}
        try:
            return made(**{key: value for key, value in self._module.config.items() if key in known})
        except (TypeError, ValueError) as error:
            raise ModuleError(
                f"PEFT cannot use the configuration of module '{self._module.name}': {error}; correct it"
            ) from error
