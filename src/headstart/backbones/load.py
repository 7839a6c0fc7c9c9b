"""About how much a backbone has to compute for some rows, told before it runs."""

from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from headstart.backbones.backbone import Backbone
from headstart.backbones.encoding import TextFormat
from headstart.tasks import Example
from headstart.units import Load

__all__ = ["load_of", "tokens_of"]

FORWARD, BACK = 2.0, 2.0
"""Operations for each parameter and token: a multiplication and an addition forward, and as many for the gradients of
the activations on the way back. The parameters themselves are frozen, so their own gradients are not computed."""


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
    return Load(forward + both, operations, backbone.device.type, backward=both)


@lru_cache(maxsize=4)  # inputs and answers of train and dev: many units read the same rows
def _lengths(texts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    if not texts:
        return ()
    return tuple(len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"])
