"""Calibration: likelihoods of options favour short and frequent ones, and what takes that off is chosen on dev rows."""

import math
from collections.abc import Mapping

from headstart.errors import SettingError
from headstart.evaluating.evaluation import Evaluation
from headstart.records import Calibration

__all__ = ["CALIBRATIONS", "Calibration", "calibrate", "check_calibration", "fit_calibration"]

CALIBRATIONS = ("auto", "none", "length", "batch")


def check_calibration(method: str) -> None:
    """Raise `SettingError` for an unknown method."""
    if method not in CALIBRATIONS:
        raise SettingError(f"unknown calibration '{method}'; choose one of: {', '.join(CALIBRATIONS)}")


def calibrate(evaluation: Evaluation, calibration: Calibration) -> Evaluation:
    """The evaluation with predictions and score as this calibration makes them; the first of equal options is taken.

    It stays as it is where answers are not chosen by the likelihood of options, and where `calibration` has no offset
    for one of them, because it was made for other labels.
    """
    if calibration.method == "none" or evaluation.decoding != "options":
        return evaluation
    if calibration.method == "batch" and not all(set(own) <= calibration.offsets.keys() for own in evaluation.options):
        return evaluation
    predictions = []
    for scores, options, lengths in zip(evaluation.scores, evaluation.options, evaluation.lengths, strict=True):
        adjusted = calibration.adjusted(scores, options, lengths)
        predictions.append(options[adjusted.index(max(adjusted))])
    return evaluation.answered(predictions, calibration)


def fit_calibration(dev: Evaluation, *others: Evaluation, method: str = "auto") -> Calibration:
    """The calibration of one module, from its evaluations without one.

    Args:
        dev: on dev rows, by whose score "auto" chooses among "none", "length" and "batch"; of equal scores, the first.
        others: on further rows, such as those of train: "batch" reads their inputs and not their targets.
        method: "auto", or the method to use.

    Raises:
        SettingError: the method is unknown, or asked for by name and not possible: "length" and "batch" need options
            that are compared by likelihood, "batch" the same ones in every row.
    """
    check_calibration(method)
    possible = {"none": Calibration()}
    if dev.decoding == "options":
        possible["length"] = Calibration(method="length")
        offsets = _offsets(dev, *others)
        if offsets:
            possible["batch"] = Calibration(method="batch", offsets=offsets)
    if method == "auto":
        return _best(dev, possible)
    if method not in possible:
        raise SettingError(_impossible(dev, method))
    return possible[method]


def _best(dev: Evaluation, possible: Mapping[str, Calibration]) -> Calibration:
    scores = {name: calibrate(dev, each).score for name, each in possible.items()}
    best = "none"
    for name, score in scores.items():
        if score > scores[best]:
            best = name
    return possible[best]


def _offsets(*evaluations: Evaluation) -> dict[str, float]:
    """The mean log-likelihood of each option over all rows; empty if rows choose from different ones, or it is NaN."""
    classes = evaluations[0].classes
    if not classes or any(set(each.classes) != set(classes) for each in evaluations):
        return {}
    found: dict[str, list[float]] = {name: [] for name in classes}
    for each in evaluations:
        for options, scores in zip(each.options, each.scores, strict=True):
            for option, score in zip(options, scores, strict=True):
                found[option].append(score)
    means = {name: math.fsum(values) / len(values) for name, values in found.items()}
    return means if all(math.isfinite(mean) for mean in means.values()) else {}


def _impossible(dev: Evaluation, method: str) -> str:
    if dev.decoding != "options":
        return (
            f"calibration '{method}' compares the likelihoods of options, and these rows are answered "
            f"{'through a task head' if dev.decoding == 'head' else 'in open text'}; leave it at auto"
        )
    return "calibration 'batch' needs the same options in every row, with likelihoods that are numbers; use 'length'"
