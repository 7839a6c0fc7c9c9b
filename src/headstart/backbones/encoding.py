"""Examples as token ids: the text-to-text format of [PEWE] on causal and encoder-decoder backbones."""

from dataclasses import dataclass
from typing import Any

from headstart.errors import BackboneError, TaskError

__all__ = ["Encoded", "Encoder", "TextFormat"]


@dataclass(frozen=True)
class TextFormat:
    """How a text-to-text example is laid out for a causal backbone, and where texts are cut.

    The prompt is the input, cut on the right to leave room, followed by `suffix`; the target follows after one space.
    Lengths are in tokens; [PEWE] uses 512 and 64. Encoder-decoder backbones take input and target as they are.
    """

    suffix: str = "\nAnswer:"
    max_input: int = 512
    max_target: int = 64


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example: `prompt` is read, `target` (with end-of-sequence) is predicted.

    On an encoder `target` is what its head is to answer: the label's number, or first and last token of a span, for
    which `offsets` holds the characters (first, behind the last) of every token; or output 0, which is to be `value`.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...] = ()
    value: float | None = None

    @property
    def cut_off(self) -> bool:
        """Whether a span's answer lies beyond the tokens that are read; its target is then the first token."""
        return bool(self.offsets) and self.target == (0, 0)


class Encoder:
    """Turns texts into ids for one tokenizer. Deterministic; never adds padding.

    Args:
        tokenizer: a transformers tokenizer.
        whole: whether inputs are read by themselves, as encoders and encoder-decoders do, without the suffix.
        longest: the most tokens that the backbone reads at once, `None` for no limit below the text format's.
    """

    def __init__(self, tokenizer: Any, *, whole: bool, longest: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.whole = whole
        self.longest = longest

    def prompt(self, text: str, text_format: TextFormat) -> tuple[int, ...]:
        """Ids of an input, at most `text_format.max_input` long; for a causal backbone the suffix is always whole."""
        if self.whole:
            return tuple(self.tokenizer(text, truncation=True, max_length=self._most(text_format))["input_ids"])
        suffix = self._plain(text_format.suffix)
        start = self._start()
        room = text_format.max_input - len(suffix) - len(start)
        if room < 1:
            raise TaskError(
                f"max_input={text_format.max_input} leaves no room for the input; raise it above {len(suffix) + 1}"
            )
        ids = (*start, *self._plain(text)[:room], *suffix)
        if not ids:
            raise TaskError(
                "an input without text and without a suffix leaves nothing to read; give the task longer inputs"
            )
        return ids

    def target(self, text: str, text_format: TextFormat) -> tuple[int, ...]:
        """Ids of a target with end-of-sequence, at most `text_format.max_target` long."""
        if self.whole:
            return tuple(
                self.tokenizer(text_target=text, truncation=True, max_length=text_format.max_target)["input_ids"]
            )
        # Tokenizers differ in what they make of a leading space; the ids after the suffix are what the model would see.
        suffix = self._plain(text_format.suffix)
        joined = self._plain(f"{text_format.suffix} {text}")
        ids = joined[len(suffix) :] if joined[: len(suffix)] == suffix else self._plain(f" {text}")
        return (*ids[: text_format.max_target - 1], int(self.tokenizer.eos_token_id))

    def placed(self, text: str, text_format: TextFormat) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Ids of a whole input, and for each the characters (first, behind the last) that it stands for.

        Raises `BackboneError` when the tokenizer does not tell them.
        """
        if not self.tokenizer.is_fast:
            raise BackboneError(
                f"{type(self.tokenizer).__name__} does not tell which characters a token stands for, so no span of the "
                "input can be found; choose a backbone with a tokenizer.json"
            )
        most = self._most(text_format)
        made = self.tokenizer(text, truncation=True, max_length=most, return_offsets_mapping=True)
        return tuple(made["input_ids"]), tuple((first, end) for first, end in made["offset_mapping"])

    def _most(self, text_format: TextFormat) -> int:
        return text_format.max_input if self.longest is None else min(text_format.max_input, self.longest)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _start(self) -> list[int]:
        first = self.tokenizer("a", verbose=False)["input_ids"][:1]
        return list(first) if first == [self.tokenizer.bos_token_id] else []
