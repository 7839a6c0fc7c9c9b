"""Examples as token ids: the text-to-text format of [PEWE] on causal and encoder-decoder backbones."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headstart.errors import BackboneError, TaskError
from headstart.records import TextFormat
from headstart.tasks.example import Text, TextPair

__all__ = ["Encoded", "Encoder", "TextFormat"]

USUAL_ENDS = (":", ".")
"""What a text may end with, if no suffix tells how the target continues it."""

SHOWN = 60
"""How many characters of an input an error shows."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example: `prompt` is read, `target` (with end-of-sequence) is predicted.

    On an encoder, `target` is what its head is to answer: the label's number; the first and last token of a span, for
    which `offsets` holds the characters (first, one past the last) of every token; or output 0, wanted as `value`.
    `cut_off`: whether a span's answer lies beyond the tokens that are read; its target is then the first token.
    `types`: which of two texts each token belongs to, if the tokenizer tells it and the encoder reads it.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...] = ()
    value: float | None = None
    cut_off: bool = False
    types: tuple[int, ...] = ()


class Encoder:
    """Turns texts into ids for one tokenizer. Deterministic; never adds padding.

    Args:
        tokenizer: a transformers tokenizer.
        whole: whether inputs are read by themselves, as encoders and encoder-decoders do, without the suffix.
        longest: the most tokens that the backbone reads at once, `None` for no limit below the text format's.
        known: how many tokens the backbone has embeddings for, `None` for all that the tokenizer has.
        typed: whether the backbone reads which of two texts each token belongs to.

    Every method raises `BackboneError` for a text with a token that the backbone has no embedding for.
    """

    def __init__(
        self, tokenizer: Any, *, whole: bool, longest: int | None = None, known: int | None = None, typed: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.typed = typed
        self.whole = whole
        self.longest = longest
        self.known = known

    def layout(self, text_format: TextFormat) -> TextFormat:
        """`text_format` as this encoder uses it, for a module's card: the bare input if it adds nothing."""
        bare = {"suffix": "", "prefix": "", "chat_template": False}
        return text_format.model_copy(update=bare) if self.whole else text_format

    def prompt(self, text: Text, text_format: TextFormat) -> tuple[int, ...]:
        """Ids of an input as language models read it, at most `text_format.max_input` long.

        For a causal backbone, they are the ids of the whole prompt as one text, so that a module reads the same when it
        is prompted with plain text. A long input is cut at the end of a token; what is around it is always whole.
        Raises `TaskError` if there is nothing to read, or no token of the input fits, and `BackboneError` for a chat
        without a template.
        """
        text = text if isinstance(text, str) else text.joined
        if self.whole:
            self._refuse_chat(text_format)
            made = self.tokenizer(text, truncation=True, max_length=self._most(text_format))
            return self._embedded(made["input_ids"])
        start = () if text_format.chat_template else self._start
        most, alone = text_format.max_input - len(start), len(self._plain(self._prompt("", text_format)))
        if most <= alone:
            raise TaskError(
                f"max_input={text_format.max_input} leaves no room for the input; raise it above {alone + 1}"
            )
        ids = self._plain(self._prompt(text, text_format))
        if len(ids) > most:
            ids = self._plain(self._prompt(self._cut(text, text_format, most), text_format))
        if not (ids or start):
            raise TaskError(
                "an input without text and without a suffix leaves nothing to read; give the task longer inputs"
            )
        return self._embedded((*start, *ids))

    def target(self, text: str, text_format: TextFormat) -> tuple[int, ...]:
        """Ids of a target with end-of-sequence, at most `text_format.max_target` long."""
        if self.whole:
            made = self.tokenizer(text_target=text, truncation=True, max_length=text_format.max_target)
            return self._embedded(made["input_ids"])
        if text_format.chat_template:
            ids = self._continued(text, (self._prompt("", text_format),))
        else:
            ids = self._continued(f" {text}", (text_format.suffix, *USUAL_ENDS))
        return self._embedded((*ids[: text_format.max_target - 1], int(self.tokenizer.eos_token_id)))

    def read(self, text: Text, text_format: TextFormat) -> Encoded:
        """An encoder's input, with an empty target; for two texts, the ids and types that the tokenizer gives a pair.

        If two texts are together longer than `text_format.max_input`, the longer one is cut on the right.
        """
        return self._read(text, text_format)

    def with_offsets(self, text: Text, text_format: TextFormat) -> Encoded:
        """As `read`, with the characters (first, one past the last) that each token of the text stands for.

        For two texts, only those of the second, as positions in the joined text. Raises `BackboneError` if the
        tokenizer does not tell them.
        """
        if not self.tokenizer.is_fast:
            raise BackboneError(
                f"{type(self.tokenizer).__name__} does not tell which characters a token stands for, so no span of the "
                "input can be found; choose a backbone with a tokenizer.json"
            )
        return self._read(text, text_format, return_offsets_mapping=True)

    def _read(self, text: Text, text_format: TextFormat, **wanted: bool) -> Encoded:
        self._refuse_chat(text_format)
        texts = (text,) if isinstance(text, str) else (text.first, text.second)
        made = self.tokenizer(*texts, truncation=True, max_length=self._most(text_format), **wanted)
        offsets = made.get("offset_mapping", ())
        if isinstance(text, TextPair) and offsets:
            start, owners = text.start, made.sequence_ids()
            placed = zip(owners, offsets, strict=True)
            offsets = [(first + start, end + start) if owner == 1 else (0, 0) for owner, (first, end) in placed]
        types = made.get("token_type_ids", ()) if self.typed else ()
        return Encoded(self._embedded(made["input_ids"]), (), tuple(map(tuple, offsets)), types=tuple(types))

    def _most(self, text_format: TextFormat) -> int:
        return text_format.max_input if self.longest is None else min(text_format.max_input, self.longest)

    def _prompt(self, text: str, text_format: TextFormat) -> str:
        """What a causal backbone reads for an input."""
        whole = f"{text_format.prefix}{text}{text_format.suffix}"
        if not text_format.chat_template:
            return whole
        if not self.tokenizer.chat_template:
            raise BackboneError(
                f"{type(self.tokenizer).__name__} of this backbone has no chat template; leave out --chat "
                "(chat_template in Python), or choose a backbone that was tuned for chats"
            )
        turn = [{"role": "user", "content": whole}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))

    def _refuse_chat(self, text_format: TextFormat) -> None:
        if text_format.chat_template:
            raise BackboneError(
                "this backbone is no causal language model and reads inputs as they are; leave out --chat "
                "(chat_template in Python)"
            )

    def _cut(self, text: str, text_format: TextFormat, most: int) -> str:
        """The longest beginning of `text` that, with what is around it, is at most `most` tokens long."""
        ends: Sequence[int]
        if self.tokenizer.is_fast:
            made = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ends = [0, *(end for _, end in made["offset_mapping"][:most])]
        else:
            ends = range(len(text) + 1)
        kept = bisect_right(ends, most, key=lambda end: len(self._plain(self._prompt(text[:end], text_format))))
        if kept < 2:
            raise TaskError(f"no token of the input {text[:SHOWN]!r} fits beside the suffix; raise max_input")
        return text[: ends[kept - 1]]

    def _continued(self, text: str, contexts: Sequence[str]) -> list[int]:
        """Ids of `text` as they follow the first of `contexts` that ends with a token before it.

        Tokenizers treat a leading space differently; after a context, the ids are those that the model would see.
        """
        for context in contexts:
            before, joined = self._plain(context), self._plain(context + text)
            if before and joined[: len(before)] == before:
                return joined[len(before) :]
        return self._plain(text)

    def _embedded(self, ids: Sequence[int]) -> tuple[int, ...]:
        if self.known is not None and max(ids, default=0) >= self.known:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise BackboneError(
                f"the text has the token {token!r}, which the backbone has no embedding for; take it out of the task"
            )
        return tuple(ids)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @cached_property
    def _start(self) -> tuple[int, ...]:
        first = self.tokenizer("a", verbose=False)["input_ids"][:1]
        return tuple(first) if first == [self.tokenizer.bos_token_id] else ()
