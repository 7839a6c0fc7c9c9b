"""What the scored examples ask for: classes that features are compared by, and options to choose from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.backbones import Backbone, Encoded, Head, TextFormat
from headstart.indicators.contract import TokenIndicator, TokenStatistics
from headstart.indicators.loss import Loss
from headstart.tasks import Example

__all__ = ["LabelLogP", "Offered", "classes_of", "offered_options"]

SPAN = "a span is found in a text and not chosen among options"
NO_OPTIONS = "the example offers no options to choose from"


@dataclass(frozen=True)
class LabelLogP(TokenIndicator):
    """log p of the label of this number, on an encoder that answers with one label for each example."""

    name = "label_log_p"
    source = "the engine's own"

    label: int

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """log p_j[label], (N, M)."""
        return tokens.log_p.detach()[:, :, self.label]


@dataclass(frozen=True, eq=False)
class Offered:
    """The options of E examples.

    `texts`: K different options of each, none where it offers none. `right`: which of them are acceptable. `gold`:
    which is the target, that every pass reads anyway; -1 if none is. `others`: the rest as token ids, one example
    after the other. On an encoder, `labels` says that the options are its labels, and `others` is empty.
    """

    texts: tuple[tuple[str, ...], ...]
    right: tuple[Tensor, ...]
    gold: tuple[int, ...]
    others: Sequence[Encoded]
    labels: bool

    @property
    def read(self) -> tuple[TokenIndicator, ...]:
        """What a pass over the examples must give for the likelihoods."""
        return tuple(map(LabelLogP, range(len(self.texts[0])))) if self.labels else (Loss(),)

    def likelihoods(self, read: Sequence[Tensor], others: Tensor | None) -> list[Tensor]:
        """The log-likelihoods (N, K) of each example's options.

        `read`: what `read` gave, (N, E) each; `others` (N, options) for the others.
        """
        if self.labels:
            return list(torch.stack(list(read), dim=2).unbind(1))
        found, start = [], 0
        for example, (texts, gold) in enumerate(zip(self.texts, self.gold, strict=True)):
            count = len(texts) - (gold >= 0)
            own = read[0].new_empty(len(read[0]), 0) if others is None else others[:, start : start + count]
            start += count
            target = read[0][:, example : example + 1]
            found.append(own if gold < 0 else torch.cat([own[:, :gold], target, own[:, gold:]], dim=1))
        return found


def offered_options(
    examples: Sequence[Example], backbone: Backbone, text_format: TextFormat, *, head: Head | None
) -> Offered | str:
    """The options of the examples, or why there are none."""
    if head is not None and head.card.task != "classification":
        return SPAN
    labels = () if head is None else tuple(head.card.labels)
    texts = [labels or tuple(dict.fromkeys(example.options or ())) for example in examples]
    if not any(texts):
        return NO_OPTIONS
    rows = list(zip(texts, examples, strict=True))
    right = [torch.tensor([text in row.outputs for text in own], dtype=torch.bool) for own, row in rows]
    gold = [own.index(row.target) if row.target in own else -1 for own, row in rows]
    others: list[Encoded] = []
    if not labels:
        pairs = [
            (row.text, text)
            for (own, row), target in zip(rows, gold, strict=True)
            for number, text in enumerate(own)
            if number != target
        ]
        others = backbone.encode(pairs, text_format)
    return Offered(tuple(texts), tuple(right), tuple(gold), others, bool(labels))


def classes_of(examples: Sequence[Example], *, values: Sequence[float] | None) -> Tensor | str:
    """The target of each example as a number, (E,): its class or, for a regression, its value; else, why not."""
    if values is not None:
        return torch.tensor(values, dtype=torch.float64)
    answers = [example.target for example in examples]
    numbers = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
    if len(numbers) == 1:
        return "all examples have the same answer, so there are no classes to tell apart"
    if 2 * len(numbers) > len(answers):
        return f"{len(answers)} examples have {len(numbers)} different answers, so there are no classes to tell apart"
    return torch.tensor([numbers[answer] for answer in answers])
