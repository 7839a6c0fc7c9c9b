"""Prompt tuning: tuned rows before the embedded input (Lester et al., 2021), as PEFT saves and computes it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PromptTuningConfig
from torch import Tensor
from torch.nn import functional

from headstart.backbones import Backbone
from headstart.backbones.hooks import Hook, hooked
from headstart.errors import ModuleError
from headstart.formats import PromptLayout, StoredModule
from headstart.formats.libraries.peft_virtual_tokens import EMBEDDINGS
from headstart.kinds.contract import ParameterStack, ValuesModule, card_of, require_backbone_of
from headstart.kinds.peft_config import peft_config
from headstart.kinds.settings import PromptSettings
from headstart.kinds.tensors import to_torch
from headstart.kinds.virtual_tokens import is_empty, make_room, per_row, require_task_type

__all__ = ["PromptModule", "PromptStack"]


class PromptStack(ParameterStack["PromptModule"]):
    """N prompts of equal shape: `prompt` (N, length, dim)."""

    concurrent = True

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Put module n's rows before the embedded input of its own rows; only the text's positions reach the head."""
        words, length = backbone.model.get_input_embeddings(), self.parameters["prompt"].shape[1]

        def read_prompt(inputs: dict[str, Any]) -> dict[str, Any]:
            changed = inputs if has_room(inputs) else make_room(inputs, length)
            if is_empty(inputs.get("past_key_values")):
                changed = dict(changed)
                text = words(changed.pop("input_ids"))
                prompt = per_row(self.parameters["prompt"].to(text.dtype), text.shape[0])
                changed["inputs_embeds"] = torch.cat([prompt, text], dim=1)
                changed |= _first_positions(changed.get("position_ids"), length)
                changed |= _first_types(changed.get("token_type_ids"), length)
            return _padding_first(changed, inputs.get("attention_mask"), length)

        def only_text(inputs: dict[str, Any], output: Any) -> Any:
            # In PEFT, an encoder's head reads the first position, which then belongs to the prompt.
            if inputs.get("inputs_embeds") is not None and not backbone.is_encoder:
                output.last_hidden_state = output.last_hidden_state[:, length:]
            return output

        def see_prompt(inputs: dict[str, Any]) -> dict[str, Any]:
            return make_room(inputs, length, mask="encoder_attention_mask")

        def has_room(inputs: dict[str, Any]) -> bool:
            seen = inputs.get("attention_mask")
            return backbone.is_encoder and seen is not None and seen.shape[1] > inputs["input_ids"].shape[1]

        def see_whole(inputs: dict[str, Any]) -> dict[str, Any]:
            return make_room(inputs, length)

        if backbone.is_encoder:
            # A head that averages over all unmasked tokens reads the prompt too, as in PEFT.
            return hooked(Hook(backbone.model, see_whole), Hook(backbone.decoder, read_prompt, only_text))
        if backbone.seq2seq:
            return hooked(Hook(backbone.model.get_encoder(), read_prompt), Hook(backbone.decoder, see_prompt))
        return hooked(Hook(backbone.decoder, read_prompt, only_text))


@dataclass(frozen=True, eq=False)
class PromptModule(ValuesModule):
    """A prompt (length, dim), whose rows come before the input of a causal model or of an encoder."""

    kind = "prompt"
    head_prefix = "base_model."
    settings = PromptSettings
    stack_family = PromptStack

    @classmethod
    def from_stored(cls, stored: StoredModule) -> PromptModule:
        """The prompt that a validated PEFT folder holds.

        For encoder-decoders, PEFT saves twice the rows and uses the first half; the other half is dropped.
        """
        layout = stored.layout
        assert isinstance(layout, PromptLayout)  # `load_module` chose this class by the kind on the card
        rows = to_torch(stored.tensors[EMBEDDINGS]).float()[: layout.length].clone()
        card = stored.card.model_copy(update={"parameters": rows.numel()})
        return cls(card, {**stored.config, "num_transformer_submodules": 1}, {"prompt": rows})

    @classmethod
    def fresh(cls, backbone: Backbone, settings: PromptSettings, *, name: str, seed: int) -> PromptModule:
        """Embeddings of tokens drawn from the vocabulary (Lester et al., 2021, §2.1). Any prompt has an effect."""
        words = backbone.model.get_input_embeddings()
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(words.weight.shape[0], (1, settings.length), generator=generator)
        with torch.no_grad():
            rows = words(drawn.to(backbone.device))[0].float().cpu()
        return cls.build(rows, name=name, backbone=backbone)

    @classmethod
    def build(cls, rows: Tensor, *, name: str, backbone: Backbone) -> PromptModule:
        """Make a module from rows (length, dim), with PEFT's configuration for them."""
        length, dim = rows.shape
        fields = {"num_virtual_tokens": length, "token_dim": dim, "num_transformer_submodules": 1}
        card = card_of(cls.kind, [rows], name=name, backbone=backbone, rank=length)
        return cls(card, peft_config(PromptTuningConfig, backbone, **fields), {"prompt": rows})

    def state_dict(self) -> dict[str, Tensor]:
        """`prompt_embeddings` (length, dim)."""
        return {EMBEDDINGS: self.values["prompt"]}

    def reset(self, *, seed: int) -> PromptModule:
        """Normal rows with the spread of the current ones, which is close to that of embeddings."""
        rows, generator = self.values["prompt"], torch.Generator().manual_seed(seed)
        return self.begun({"prompt": torch.randn(rows.shape, generator=generator) * rows.std()})

    def untuned(self, backbone: Backbone, *, seed: int) -> PromptModule:
        """Embeddings of tokens of the vocabulary, drawn again; see `fresh`."""
        settings = PromptSettings(len(self.values["prompt"]))
        return self.begun(self.fresh(backbone, settings, name=self.name, seed=seed).values)

    def check(self, backbone: Backbone) -> None:
        """Refuse another stated backbone, another type of backbone, or another width of its embeddings."""
        require_backbone_of(self.card, backbone)
        require_task_type(self.config, self.name, backbone)
        backbone.decoder  # noqa: B018 - found, or refused with the reason
        mine, width = self.values["prompt"].shape[1], backbone.model.get_input_embeddings().weight.shape[1]
        if mine != width:
            raise ModuleError(
                f"the prompt of module '{self.name}' is {mine} wide and the embeddings of "
                f"{backbone.name} {width}; load the backbone it was tuned on, or leave it out"
            )

    @property
    def token_shape(self) -> tuple[int, int]:
        """The number of tokens, and the width of each."""
        length, width = self.values["prompt"].shape
        return length, width

    def layer_vectors(self) -> tuple[Tensor, ...]:
        """One row, because a prompt is in one layer only, the embeddings."""
        return (self.values["prompt"].reshape(1, -1),)


def _first_positions(positions: Tensor | None, length: int) -> dict[str, Tensor]:
    """Positions 0…length-1 before the others, if positions are given at all."""
    if positions is None:
        return {}
    first = torch.arange(length, device=positions.device).expand(*positions.shape[:-1], length)
    return {"position_ids": torch.cat([first, positions], dim=-1)}


def _first_types(types: Tensor | None, length: int) -> dict[str, Tensor]:
    """The type of the first text before the others, if types are given at all; as PEFT does."""
    return {} if types is None else {"token_type_ids": functional.pad(types, (length, 0))}


def _padding_first(inputs: dict[str, Any], mask: Tensor | None, length: int) -> dict[str, Any]:
    """The inputs with the prompt moved after the padding on the left, so that it comes right before the text.

    Between the two, padding would take up room in a sliding window and distance in an attention bias. The
    positions of the text stay as they are; those of padding have no meaning anyway. `mask` is that of the text alone.
    """
    pads = None if mask is None else (mask.cumsum(1) == 0).sum(1, keepdim=True)
    if pads is None or not pads.any():
        return inputs
    here = torch.arange(inputs["attention_mask"].shape[1], device=pads.device)
    source = torch.where(here < pads, here + length, torch.where(here < pads + length, here - pads, here))
    moved = {"attention_mask": inputs["attention_mask"].gather(1, source)}
    if inputs.get("inputs_embeds") is not None:
        embedded = inputs["inputs_embeds"]
        moved["inputs_embeds"] = embedded.gather(1, source.unsqueeze(2).expand_as(embedded))
        if inputs.get("position_ids") is not None:
            moved["position_ids"] = inputs["position_ids"].gather(1, source)
    return inputs | moved
