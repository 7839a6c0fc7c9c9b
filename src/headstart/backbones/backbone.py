"""The frozen pretrained model; nothing else in the package runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from headstart.architectures import architecture_of
from headstart.backbones import loading, locating
from headstart.backbones.encoding import Encoded, Encoder, TextFormat
from headstart.backbones.greedy import greedy_config, own_settings_hidden
from headstart.backbones.hooks import HookPerThread
from headstart.backbones.identity import config_digest, fingerprint, tokenizer_digest
from headstart.backbones.in_memory import Flags, check_model, model_name
from headstart.backbones.options import cache_rows, gold_log_likelihood, most_rows
from headstart.backbones.plan import TargetBatch, causal_batch, pad, seq2seq_batch
from headstart.errors import BackboneError
from headstart.records import Fingerprint, HeadCard
from headstart.tasks.example import Text

__all__ = ["Backbone"]

FAMILIES = ("headstart.backbones.encoder",)
"""Where the subclasses are; each imports this file, so they are named here and imported when a model is loaded."""

SHORT_SEQUENCE = 192
"""Up to this many tokens, unfused attention has the faster backward pass on a CPU in bfloat16 (3 times at 42)."""


class Backbone:
    """A frozen causal or encoder-decoder language model with its tokenizer; see `EncoderBackbone` for encoders.

    Args:
        model: a transformers model; its parameters are frozen and it is put into evaluation mode.
        tokenizer: the tokenizer that belongs to it.
        name: its name for readers: a hub id, or the name of the folder or file it was loaded from.

    `source` is what it was loaded from, as (place, revision); `None` for a model that was given as an object.
    In every forward pass of a stack of N modules the rows are module-major: row n·B + b is example b under module n.

    >>> hs.Backbone.load("tiny-llama", device="cpu", dtype="float32")
    Backbone('tiny-llama', llama language model, float32 on cpu)
    """

    is_encoder: ClassVar[bool] = False
    """Whether it answers through a task head instead of writing text."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, name: str) -> None:
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.name = name
        self.source: tuple[str, str | None] | None = None
        self._flags: Flags | None = None
        self.seq2seq = bool(model.config.is_encoder_decoder)
        self.encoder = Encoder(tokenizer, whole=self.seq2seq, known=int(model.get_input_embeddings().weight.shape[0]))
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)

    @classmethod
    def runs(cls, model: PreTrainedModel) -> bool:
        """Whether this class runs models like `model`; models that no subclass runs are run by `Backbone` itself."""
        del model
        return True

    @classmethod
    def load(
        cls, source: str | Path, *, device: str = "auto", dtype: str = "auto", revision: str | None = None
    ) -> Backbone:
        """Load a backbone from a local folder, a GGUF file or a hub id.

        Args:
            source: folder written by `save_pretrained`, path of a `.gguf` file, or hub id `owner/name`.
            device: "auto" (CUDA, then MPS, then CPU), or a torch device.
            dtype: "auto" (bfloat16 where the device computes it natively, else float32), or a torch dtype's name.
            revision: branch, tag or commit of a hub id.

        Raises:
            BackboneError: not found, not readable, or of an architecture that Headstart does not run.
        """
        chosen = loading.choose_device(device)
        wanted = loading.choose_dtype(dtype, chosen)
        # float16 rounds differently from bfloat16, so the fingerprint is taken before the weights are rounded to it.
        exact = torch.float32 if wanted == torch.float16 else wanted
        model, tokenizer = loading.load(source, dtype=exact, revision=revision)
        family = cls._family(model, str(source), remedy="load it with Backbone.load")
        backbone = family(model, tokenizer, name=locating.name_of(source))
        if wanted != exact:
            backbone.fingerprint  # noqa: B018 - computed now, and kept
        model.to(chosen, wanted)
        backbone.source = (str(source), revision)
        return backbone

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Any, *, name: str | None = None) -> Backbone:
        """A backbone around a transformers model that the caller has loaded, on its device and in its dtype.

        The model is used as it is, not copied: in evaluation mode and frozen until `release`, or until the end of a
        `with` block, which gives it back as it was.

        Args:
            model: as transformers' classes for language models or sequence classification load it. In float16, its
                fingerprint is that of the rounded weights, so modules may take it for another backbone.
            tokenizer: the tokenizer that belongs to it.
            name: its name on cards; `None` is what it was loaded from.

        Raises:
            BackboneError: whatever `load` refuses; a model with PEFT's layers in it, or quantized, or spread over
                several devices or dtypes.
        """
        check_model(model, tokenizer)
        family = cls._family(model, type(model).__name__, remedy="give it to Backbone.of")
        flags = Flags.of(model)
        with flags.restored_on_failure(model):
            backbone = family(model, tokenizer, name=model_name(model) if name is None else name)
        backbone._flags = flags
        return backbone

    def release(self) -> None:
        """Give a model that was given to `of` back as it was, trainable and in training mode if it was so before."""
        if self._flags is not None:
            self._flags.restore(self.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        what = "encoder" if self.is_encoder else "encoder-decoder" if self.seq2seq else "language model"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({self.name!r}, {self.model.config.model_type} {what}, {dtype} on {self.device})"

    @classmethod
    def _family(cls, model: PreTrainedModel, said: str, *, remedy: str) -> type[Backbone]:
        """The class that runs the model."""
        for name in FAMILIES:
            import_module(name)
        family = next((family for family in Backbone.__subclasses__() if family.runs(model)), Backbone)
        if not issubclass(family, cls):
            raise BackboneError(f"{said} is no model that {cls.__name__} runs; {remedy}")
        return family

    @property
    def place(self) -> str:
        """Where transformers and PEFT load it from: the absolute path of a folder or file, or its hub id.

        Its name, if it was given as an object that does not say where it comes from.
        """
        return locating.place_of(self.source[0] if self.source else str(self.model.name_or_path or self.name))

    @property
    def device(self) -> torch.device:
        """The device that holds the model."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the model computes."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Architecture, shapes and weights as hashes; equal for one backbone in any dtype."""
        return fingerprint(self.model, name=self.name)

    @cached_property
    def config_digest(self) -> str:
        """A hash of the settings that it computes by."""
        return config_digest(self.model)

    @cached_property
    def tokenizer_digest(self) -> str:
        """A hash of how its tokenizer makes tokens."""
        return tokenizer_digest(self.tokenizer)

    @cached_property
    def head(self) -> nn.Module:
        """The language-model head, from hidden states to logits over the vocabulary."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @cached_property
    def decoder(self) -> nn.Module:
        """What feeds the head: the model below it, or the decoder of an encoder-decoder; one token is run to make sure.

        Raises `BackboneError` when the model computes without it.
        """
        decoder: nn.Module = self.model.get_decoder()
        calls: list[nn.Module] = []
        handle = decoder.register_forward_hook(lambda layer, _, __: calls.append(layer))
        try:
            self._read_one_token()
        finally:
            handle.remove()
        if decoder is self.model or len(calls) != 1:
            raise BackboneError(
                f"{self.name} ({self.model.config.model_type}) does not compute through a decoder that Headstart "
                "finds, so virtual tokens have no place; use another kind of module"
            )
        return decoder

    @cached_property
    def cache_shapes(self) -> tuple[tuple[int, int] | None, ...]:
        """(heads, head size) of the keys and values that each layer of the decoder caches, found by running one token.

        `None` stands for a layer that caches something else.
        """
        cache = self._read_one_token().past_key_values
        layers = (cache.self_attention_cache if self.seq2seq else cache).layers
        return tuple(
            (layer.keys.shape[1], layer.keys.shape[3])
            if isinstance(layer, DynamicLayer) and layer.is_initialized and layer.keys.shape == layer.values.shape
            else None
            for layer in layers
        )

    @property
    def below_head(self) -> str:
        """The beginning of the paths of all layers that a module may adapt: "" for all, "bert." below a task head."""
        return ""

    def named_layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Every layer that a module may adapt, with its path."""
        return ((path, layer) for path, layer in self.model.named_modules() if path.startswith(self.below_head))

    @cached_property
    def goes_alone(self) -> str:
        """Why modules cannot share a pass on this backbone; "" if they can."""
        architecture = architecture_of(self.model.config.model_type)
        return "" if architecture is None else architecture.shared

    @property
    def task_type(self) -> str:
        """PEFT's name for its use (`task_type`)."""
        return "SEQ_2_SEQ_LM" if self.seq2seq else "CAUSAL_LM"

    @property
    def token_budget(self) -> int:
        """Tokens per forward pass that keep this device busy and still fit its caches (CPU) or memory (GPU)."""
        return 2048 if self.device.type == "cpu" else 32768

    def encode(
        self, pairs: Iterable[tuple[Text, str]], text_format: TextFormat, *, head: HeadCard | None = None
    ) -> list[Encoded]:
        """Ids of (input, target) texts, in order. A language model needs no `head` and reads two texts joined."""
        del head
        return [
            Encoded(self.encoder.prompt(text, text_format), self.encoder.target(target, text_format))
            for text, target in pairs
        ]

    def batch(self, items: Sequence[Encoded], indices: Sequence[int]) -> TargetBatch:
        """The forward pass of `items[indices]`, on the CPU until it is run."""
        if self.seq2seq:
            start = int(self.model.config.decoder_start_token_id)
            return seq2seq_batch(items, indices, pad_id=self.pad_id, start_id=start)
        return causal_batch(items, indices, pad_id=self.pad_id)

    def target_logits(self, batch: TargetBatch, *, modules: int = 1) -> Tensor:
        """Logits at the target positions only, (N, M, vocabulary), for a stack of N = `modules` modules.

        The head sees M rows per module instead of B·T; everything after it (scaling, soft-capping) is the model's own.
        """
        inputs = {key: value.to(self.device).repeat(modules, 1) for key, value in batch.inputs.items()}
        offsets = torch.arange(modules).unsqueeze(1) * batch.positions
        with self._only_rows((offsets + batch.rows).flatten()), self._attention(inputs["input_ids"].shape[1]):
            logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits.view(modules, len(batch.rows), -1)

    def read(self, batch: TargetBatch) -> None:
        """Run the bare backbone over a batch, for those who have hooked its layers."""
        self.target_logits(batch)

    def option_scores(
        self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]], *, modules: int = 1
    ) -> list[list[list[float]]]:
        """Log-likelihood of every option after its prompt, end-of-sequence included; the prompt is read once.

        The keys and values of a prompt are copied for as many options at once as `MOST_COPIED` allows.

        Args:
            prompts: B id lists.
            options: for each prompt, its options' id lists.
            modules: N, the size of the attached stack.

        Returns:
            For each module, for each prompt, one score (natural logarithm, higher = likelier) per option.
        """
        flat = [(row, option) for row, listed in enumerate(options) for option in listed]
        source = torch.tensor([row for row, _ in flat])
        index = (torch.arange(modules).unsqueeze(1) * len(prompts) + source).flatten().to(self.device)
        read = self._read_seq2seq if self.seq2seq else self._read_causal
        scores = read(prompts, [option for _, option in flat], index, modules).view(modules, len(flat)).tolist()
        return [[[next(remaining) for _ in listed] for listed in options] for remaining in map(iter, scores)]

    def generate(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, modules: int = 1) -> list[list[str]]:
        """Greedy continuations as stripped text: for each of N modules, for each prompt, one string.

        The model's own generation settings (penalties, shortest lengths, forced tokens, ...) are ignored.
        """
        ids = pad(prompts, self.pad_id, left=not self.seq2seq)
        mask = pad([[1] * len(prompt) for prompt in prompts], 0, left=not self.seq2seq)
        config = greedy_config(self.model, self.tokenizer, pad_id=self.pad_id, max_new_tokens=max_new_tokens)
        with own_settings_hidden(self.model):
            produced = self.model.generate(
                input_ids=ids.to(self.device).repeat(modules, 1),
                attention_mask=mask.to(self.device).repeat(modules, 1),
                generation_config=config,
            )
        new = produced if self.seq2seq else produced[:, ids.shape[1] :]
        texts = [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]
        return [texts[start : start + len(prompts)] for start in range(0, len(texts), len(prompts))]

    def _read_one_token(self) -> Any:
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with torch.inference_mode():
            return self.model(input_ids=token, use_cache=True, **({"decoder_input_ids": token} if self.seq2seq else {}))

    def _read_causal(
        self, prompts: Sequence[Sequence[int]], flat: Sequence[Sequence[int]], index: Tensor, modules: int
    ) -> Tensor:
        """Sum over an option's tokens of log p, (N·options,), from one pass over prompts and one over options."""
        ids = pad(prompts, self.pad_id, left=True).to(self.device).repeat(modules, 1)
        mask = pad([[1] * len(prompt) for prompt in prompts], 0, left=True).to(self.device).repeat(modules, 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        last = torch.arange(ids.shape[0]) * ids.shape[1] + ids.shape[1] - 1
        with self._only_rows(last):
            first = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
        gold = pad(flat, -1).to(self.device).repeat(modules, 1)
        log_p = first.logits.view(ids.shape[0], -1).float().log_softmax(-1)
        scores: Tensor = log_p[index, gold[:, 0]]
        steps = gold.shape[1] - 1
        if steps == 0:
            return scores
        cache = first.past_key_values
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if isinstance(layer, DynamicLayer))
        most = most_rows(held // ids.shape[0], steps * log_p.shape[1])
        later = []
        for source, options in zip(torch.split(index, most), torch.split(gold, most), strict=True):
            following = positions[source, -1:] + 1 + torch.arange(steps, device=self.device)
            logits = self.model(
                input_ids=options[:, :-1].clamp(min=0),
                attention_mask=torch.cat([mask[source], torch.ones_like(following)], dim=1),
                position_ids=following,
                past_key_values=cache_rows(cache, source),
            ).logits
            later.append(gold_log_likelihood(logits, options[:, 1:]))
        return scores + torch.cat(later)

    def _read_seq2seq(
        self, prompts: Sequence[Sequence[int]], flat: Sequence[Sequence[int]], index: Tensor, modules: int
    ) -> Tensor:
        ids = pad(prompts, self.pad_id).to(self.device).repeat(modules, 1)
        mask = pad([[1] * len(prompt) for prompt in prompts], 0).to(self.device).repeat(modules, 1)
        hidden = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        gold = pad(flat, -1).to(self.device).repeat(modules, 1)
        start = torch.full_like(gold[:, :1], int(self.model.config.decoder_start_token_id))
        # Besides its own rows of them, a layer holds the keys and values that it computes from them.
        most = most_rows(3 * hidden[0].nbytes, gold.shape[1] * self.head.get_parameter("weight").shape[0])
        found = []
        for source, options, first in zip(*(torch.split(rows, most) for rows in (index, gold, start)), strict=True):
            logits = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden[source]),
                attention_mask=mask[source],
                decoder_input_ids=torch.cat([first, options[:, :-1].clamp(min=0)], dim=1),
                use_cache=False,
            ).logits
            found.append(gold_log_likelihood(logits, options))
        return torch.cat(found)

    def _attention(self, length: int) -> AbstractContextManager[None]:
        """The attention kernel for this pass; the CPU's fused bfloat16 backward is slow on short sequences."""
        slow = self.device.type == "cpu" and self.dtype == torch.bfloat16 and torch.is_grad_enabled()
        return sdpa_kernel(SDPBackend.MATH) if slow and length <= SHORT_SEQUENCE else contextlib.nullcontext()

    def _only_rows(self, rows: Tensor) -> AbstractContextManager[None]:
        """Let the head see only the given rows of the flattened hidden states, in passes of this thread."""
        return self._rows.of(rows.to(self.device))

    @cached_property
    def _rows(self) -> HookPerThread[Tensor]:
        def select(rows: Tensor, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (args[0].flatten(0, -2).index_select(0, rows).unsqueeze(0),)

        return HookPerThread(self.head.register_forward_pre_hook, select)
