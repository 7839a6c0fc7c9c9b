"""Encoders such as BERT and RoBERTa: they read a whole text at once and answer through a task head."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headstart.backbones.backbone import Backbone
from headstart.backbones.encoding import Encoded, Encoder, TextFormat
from headstart.backbones.heads import Head, HeadLayer
from headstart.backbones.hooks import HookPerThread
from headstart.backbones.identity import fingerprint
from headstart.backbones.loading import is_encoder
from headstart.backbones.plan import TargetBatch, pad
from headstart.errors import BackboneError, SettingError, TaskError
from headstart.records import Fingerprint, HeadCard
from headstart.tasks.example import Text

__all__ = ["EncoderBackbone"]

SPAN = "qa_outputs"
"""The path at which transformers keeps the layer that finds spans."""

SHOWN = 60
"""How many characters of a row's texts an error shows."""


class EncoderBackbone(Backbone):
    """A frozen encoder with a layer for a task head, and its tokenizer.

    Args:
        model: a transformers model for sequence classification; whatever weights its head has are never used.
        tokenizer: the tokenizer that belongs to it.
        name: as for `Backbone`.

    Raises:
        BackboneError: the model's head has layers other than linear ones and layer norms.
    """

    is_encoder = True

    @classmethod
    def runs(cls, model: PreTrainedModel) -> bool:
        """Whether the model is an encoder."""
        return is_encoder(model.config)

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, name: str) -> None:
        super().__init__(model, tokenizer, name=name)
        self._positions = _positions(model)
        self.encoder = Encoder(
            tokenizer,
            whole=True,
            longest=min(self._positions, int(tokenizer.model_max_length)),
            known=self.encoder.known,
            typed=_reads_types(model),
        )
        self._classifier: dict[str, HeadLayer] = {
            path: layer
            for path, layer in model.named_modules()
            if not path.startswith(self.below_head) and next(layer.parameters(recurse=False), None) is not None
        }
        odd = [path for path, layer in self._classifier.items() if type(layer) not in (nn.Linear, nn.LayerNorm)]
        if odd or not self._classifier:
            raise BackboneError(
                f"the task head of {type(model).__name__} is not made of linear layers and norms alone "
                f"({', '.join(odd)}); "
                "choose another encoder"
            )
        # The head's own weights are never used, because a head is always attached; so they are not drawn either.
        blank = nn.Linear(int(model.config.hidden_size), 2, device="meta", dtype=model.dtype)
        self._span = blank.to_empty(device=model.device).requires_grad_(False)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the encoder without any head."""
        return fingerprint(self.model.base_model, name=self.name)

    @cached_property
    def head(self) -> nn.Module:
        """The layer that gives a classifier's answer."""
        return list(self._classifier.values())[-1]

    @cached_property
    def decoder(self) -> nn.Module:
        """The encoder below the head, which is what virtual tokens go into."""
        base: nn.Module = self.model.base_model
        return base

    @property
    def cache_shapes(self) -> tuple[tuple[int, int] | None, ...]:
        """(heads, head size) of every layer's keys and values; `None` if the encoder takes none from outside."""
        config = self.model.config
        if "past_key_values" not in inspect.signature(self.decoder.forward).parameters:
            return (None,) * int(config.num_hidden_layers)
        heads = int(config.num_attention_heads)
        return ((heads, int(config.hidden_size) // heads),) * int(config.num_hidden_layers)

    @property
    def below_head(self) -> str:
        """The path of the encoder itself, with its dot."""
        return f"{self.model.base_model_prefix}."

    @property
    def task_type(self) -> str:
        """PEFT's name for its use (`task_type`), unless a head says otherwise."""
        return "SEQ_CLS"

    def head_layers(self, task: str) -> dict[str, HeadLayer]:
        """The layers of the head of a "classification", "regression" or "span" task, by path; the last one answers."""
        if task != "span":
            return self._classifier
        with torch.inference_mode(mode=False):  # moved inside inference mode, it could not be used for gradients
            self._span.to(self.device, self.dtype)
        return {SPAN: self._span}

    def head_shapes(self, card: HeadCard) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of a head with `card.outputs` answers, by name."""
        layers = self.head_layers(card.task)
        shapes: dict[str, tuple[int, ...]] = {}
        for path, layer in layers.items():
            last = path == list(layers)[-1]
            for part, value in layer.named_parameters(recurse=False):
                own = tuple(value.shape)
                shapes[f"{path}.{part}"] = (card.outputs, *own[1:]) if last else own
        return shapes

    def fresh_head(self, card: HeadCard, *, seed: int) -> Head:
        """A head as transformers initializes one: normal weights with its `initializer_range`, norms 1, biases 0."""
        generator = torch.Generator().manual_seed(seed)
        std = float(getattr(self.model.config, "initializer_range", 0.02))
        shapes = self.head_shapes(card)
        tensors = {
            name: torch.randn(shape, generator=generator) * std
            if len(shape) > 1
            else torch.full(shape, 1.0 if name.endswith("weight") else 0.0)
            for name, shape in shapes.items()
        }
        return Head(card.model_copy(update={"shapes": shapes}), tensors)

    def encode(
        self, pairs: Iterable[tuple[Text, str]], text_format: TextFormat, *, head: HeadCard | None = None
    ) -> list[Encoded]:
        """Ids of the inputs, and what the head is to answer: the label's number, the value, or first and last token.

        A span's answer is its first occurrence in the input; if that was cut off, the target is the first token.
        Raises `TaskError` for a target that the head cannot answer.
        """
        if head is None:
            raise SettingError(
                f"{self.name} is an encoder, which answers through a task head; tune one with the module"
            )
        return [self._encoded(text, target, text_format, head) for text, target in pairs]

    def _encoded(self, text: Text, target: str, text_format: TextFormat, head: HeadCard) -> Encoded:
        if head.task == "span":
            read = self.encoder.with_offsets(text, text_format)
            span = _span(text, target, read.offsets)
            return replace(read, target=span or (0, 0), cut_off=span is None)
        read = self.encoder.read(text, text_format)
        whole = text if isinstance(text, str) else text.joined
        if head.task == "regression":
            return replace(read, target=(0,), value=_value(whole, target))
        return replace(read, target=(_label(whole, target, head),))

    def batch(self, items: Sequence[Encoded], indices: Sequence[int]) -> TargetBatch:
        """The forward pass of `items[indices]`, padded on the right, on the CPU until it is run."""
        chosen = [items[index] for index in indices]
        inputs = {
            "input_ids": pad([item.prompt for item in chosen], self.pad_id),
            "attention_mask": pad([[1] * len(item.prompt) for item in chosen], 0),
        }
        if any(1 in item.types for item in chosen):
            inputs["token_type_ids"] = pad([item.types for item in chosen], 0)
        gold = torch.tensor([a if item.value is None else item.value for item in chosen for a in item.target])
        owner = torch.arange(len(chosen)).repeat_interleave(len(chosen[0].target))
        return TargetBatch(tuple(indices), inputs, torch.arange(len(gold)), gold, owner)

    def target_logits(self, batch: TargetBatch, *, modules: int = 1) -> Tensor:
        """Logits of the attached heads, (N, M, V): V labels or one value for each example; for a span M = 2B, first and
        last token of each example, and V = T tokens, those of padding at the lowest finite value.

        Raises `SettingError` when the attached modules' virtual tokens leave too few positions for the inputs.
        """
        inputs = {key: value.to(self.device).repeat(modules, 1) for key, value in batch.inputs.items()}
        rows, length = batch.inputs["input_ids"].shape
        with self._attention(length), self._room_for(length):
            if len(batch.gold) == rows:
                logits: Tensor = self.model(**inputs).logits
                return logits.view(modules, rows, -1)
            hidden = self.model.base_model(**inputs).last_hidden_state
        # A soft prompt comes before the text and is not part of it.
        logits = self._span(hidden[:, -length:]).transpose(1, 2)
        hidden_places = inputs["attention_mask"].unsqueeze(1) == 0
        logits = logits.masked_fill(hidden_places, torch.finfo(logits.dtype).min)
        return logits.reshape(modules, 2 * rows, length)

    def read(self, batch: TargetBatch) -> None:
        """Run the encoder below its head over a batch, for those who have hooked its layers."""
        inputs = {key: value.to(self.device) for key, value in batch.inputs.items()}
        length = inputs["input_ids"].shape[1]
        with self._attention(length), self._room_for(length):
            self.model.base_model(**inputs)

    def _room_for(self, length: int) -> AbstractContextManager[None]:
        """Refuse a pass over more tokens, virtual ones included, than there are positions for."""
        return self._room.of(length)

    @cached_property
    def _room(self) -> HookPerThread[int]:
        def check(length: int, _: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
            seen = inputs.get("attention_mask")
            if seen is not None and seen.shape[1] > self._positions:
                extra = seen.shape[1] - length
                left = self._positions - extra
                remedy = f"set max_input to at most {left}" if left > 0 else "use fewer virtual tokens (length)"
                raise SettingError(
                    f"{length} tokens of input and {extra} virtual ones are more than the {self._positions} that "
                    f"{self.name} reads; {remedy}"
                )

        return HookPerThread(partial(self.model.base_model.register_forward_pre_hook, with_kwargs=True), check)

    def option_scores(self, *_: Any, **__: Any) -> list[list[list[float]]]:
        """Not offered: an encoder answers through its head."""
        raise SettingError(f"{self.name} is an encoder and answers through its task head; leave `decoding` at auto")

    def generate(self, *_: Any, **__: Any) -> list[list[str]]:
        """Not offered: an encoder writes no text."""
        raise SettingError(f"{self.name} is an encoder and writes no text; leave `decoding` at auto")


def _positions(model: PreTrainedModel) -> int:
    """How many tokens have a position. RoBERTa's positions start after the id of its padding token."""
    most = int(getattr(model.config, "max_position_embeddings", 512))
    embedding = next((m for n, m in model.named_modules() if n.endswith("position_embeddings")), None)
    shifted = getattr(embedding, "padding_idx", None)
    return most - (shifted + 1 if shifted is not None else 0)


def _reads_types(model: PreTrainedModel) -> bool:
    """Whether the encoder has embeddings for the first and the second of two texts."""
    known = int(getattr(model.config, "type_vocab_size", None) or 0)
    return known > 1 and "token_type_ids" in inspect.signature(model.base_model.forward).parameters


def _label(text: str, target: str, head: HeadCard) -> int:
    if target not in head.labels:
        raise TaskError(
            f"the target {target[:SHOWN]!r} of input {text[:SHOWN]!r} is none of the head's labels "
            f"({', '.join(head.labels) or 'none are stated'}); correct the row, or tune a head for this task"
        )
    return head.labels.index(target)


def _value(text: str, target: str) -> float:
    try:
        value = float(target)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TaskError(
            f"the target {target[:SHOWN]!r} of input {text[:SHOWN]!r} is not a number, which a regression needs; "
            "correct the row"
        )
    return value


def _span(text: Text, target: str, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last token of the answer (in the second of two texts); `None` if it was cut off."""
    looked_in = text if isinstance(text, str) else text.second
    start = text.find(target) if isinstance(text, str) else text.joined.find(target, text.start)
    if start < 0:
        raise TaskError(
            f"the target {target[:SHOWN]!r} does not stand in its input {looked_in[:SHOWN]!r}, so no span of it is the "
            "answer; use a text-to-text backbone for this task, or give it labels, or the metric Pearson-Correlation "
            "where targets are numbers"
        )
    end = start + len(target)
    inside = [number for number, (first, last) in enumerate(offsets) if first < end and last > start]
    whole = inside and offsets[inside[0]][0] <= start and offsets[inside[-1]][1] >= end
    return (inside[0], inside[-1]) if whole else None
