"""About how much a backbone has to compute for some rows, told before it runs."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedTokenizerBase

from headstart.backbones.backbone import Backbone
from headstart.backbones.encoding import TextFormat
from headstart.tasks import Example
from headstart.units import Load

__all__ = ["load_of", "tokens_of"]

FORWARD, BACK = 2.0, 2.0
"""Operations for each parameter and token: a multiplication and an addition forward, and as many for the gradients of
the activations on the way back. The parameters themselves are frozen, so their own gradients are not computed."""

PROBE, ROW, PASSES = 1.4e11, 64, 3
"""How a speed is measured: about so many operations, in rows of so many tokens; the fastest of three passes counts, as
the first one also prepares the device."""

_MEASURED: WeakKeyDictionary[Backbone, float] = WeakKeyDictionary()


def tokens_of(
    examples: Sequence[Example], backbone: Backbone, text_format: TextFormat, *, options: bool = False
) -> int:
    """The tokens of inputs and targets, cut to the lengths of `text_format`; with `options`, of all options instead.

    What the layout puts around an input is left out, so it is a little less than what is read.
    """
    inputs = _lengths(tuple(example.input for example in examples), backbone.tokenizer)
    answers = [example.options or (example.target,) if options else (example.target,) for example in examples]
    words = dict.fromkeys(answer for own in answers for answer in own)
    length = dict(zip(words, _lengths(tuple(words), backbone.tokenizer), strict=True))
    return sum(
        min(prompt, text_format.max_input) + sum(min(length[answer], text_format.max_target) for answer in own)
        for prompt, own in zip(inputs, answers, strict=True)
    )


def load_of(backbone: Backbone, *, forward: int = 0, both: int = 0) -> Load:
    """The load of `forward` tokens that are only read, and of `both` that gradients go back through."""
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    operations = parameters * (FORWARD * (forward + both) + BACK * both)
    return Load(forward + both, operations, backbone.device.type, backward=both, speed=partial(_speed, backbone))


def _speed(backbone: Backbone) -> float:
    """Operations a second in a short pass, which is small enough for a large model and a slow device."""
    if backbone not in _MEASURED:
        parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
        rows = max(1, min(8, int(PROBE / (FORWARD * parameters * ROW))))
        words = backbone.model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(rows * ROW, device=backbone.device).view(rows, ROW) % words
        given = {"input_ids": ids, **({"decoder_input_ids": ids} if backbone.seq2seq else {})}
        with torch.inference_mode():
            taken = min(_seconds(partial(backbone.model, **given), backbone.device) for _ in range(PASSES))
        _MEASURED[backbone] = FORWARD * parameters * rows * ROW / taken
    return _MEASURED[backbone]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began


@lru_cache(maxsize=4)  # inputs and answers of train and dev: many units read the same rows
def _lengths(texts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    if not texts:
        return ()
    return tuple(len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"])
