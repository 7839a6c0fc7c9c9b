"""QA-F1: the overlap of words with the nearest acceptable answer, averaged over rows."""

from collections import Counter
from collections.abc import Sequence

from headstart.tasks.metrics.metric import mean_of_rows
from headstart.tasks.metrics.squad import normalize_answer

__all__ = ["QA_F1"]


def _word_f1(prediction: str, answer: str) -> float:
    found, wanted = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not found or not wanted:
        return float(found == wanted)
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))


def _best_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    return [
        max(_word_f1(prediction, answer) for answer in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    ]


QA_F1 = mean_of_rows("QA-F1", _best_f1)
"""F1 over the words of prediction and reference after SQuAD's normalisation; each row's best reference. In 0 … 1.

If normalisation leaves no words on either side, the score is 1; if on only one side, 0, as in SQuAD 2.0's
evaluation script.
"""
