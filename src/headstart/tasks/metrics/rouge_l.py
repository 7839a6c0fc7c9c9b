"""Rouge-L: the longest common subsequence of words with the nearest acceptable answer, averaged over rows."""

import re
from collections.abc import Sequence
from statistics import fmean

from headstart.tasks.metrics.metric import Metric

__all__ = ["ROUGE_L"]

_WORD = re.compile(r"[^\W_]+")


class _Words:
    """Splits text into words. `rouge_score`'s own splitter drops all letters but a-z; on ASCII text both agree."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def _rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from rouge_score.rouge_scorer import RougeScorer  # here, so that light commands do not pay for it

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return fmean(
        max(scorer.score(answer, prediction)["rougeL"].fmeasure for answer in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    )


ROUGE_L = Metric("Rouge-L", _rouge_l)
"""F-measure of ROUGE-L (Lin, 2004) without stemming, the best reference a row. In 0 … 1."""
