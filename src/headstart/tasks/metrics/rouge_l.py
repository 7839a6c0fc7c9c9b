"""Rouge-L: the longest common subsequence of words with the nearest acceptable answer, averaged over rows."""

import unicodedata
from collections.abc import Sequence

import regex  # type: ignore[import-untyped]

from headstart.tasks.metrics.metric import mean_of_rows

__all__ = ["ROUGE_L"]

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}\u200c\u200d]+")


class _Words:
    """Splits text into words: runs of letters, digits and the marks and joiners that belong to letters.

    `rouge_score`'s own splitter drops all letters but a-z; on ASCII text both agree. Composed and decomposed letters
    are the same.
    """

    def tokenize(self, text: str) -> list[str]:
        return list(_WORD.findall(unicodedata.normalize("NFC", text.lower())))


def _rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    from rouge_score.rouge_scorer import RougeScorer  # here, so that light commands do not pay for it

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return [
        max(scorer.score(answer, prediction)["rougeL"].fmeasure for answer in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    ]


ROUGE_L = mean_of_rows("Rouge-L", _rouge_l)
"""F-measure of ROUGE-L (Lin, 2004) without stemming, with each row's best reference. In 0 … 1."""
