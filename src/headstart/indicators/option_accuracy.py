"""Accuracy among the options of each example."""

from torch import Tensor

from headstart.indicators.contract import OptionIndicator

__all__ = ["OptionAccuracy"]


class OptionAccuracy(OptionIndicator):
    """1 if the likeliest option, by the log-likelihood of all its tokens, is a right one, else 0; the first of equals.

    This is the zero-shot score of a module on a task with closed answers, without calibration.
    """

    name = "option_accuracy"
    source = "Brown et al., 2020, §2.4"

    def per_example(self, likelihoods: Tensor, right: Tensor) -> Tensor:
        """1 or 0 for each module, (N,)."""
        return right[likelihoods.argmax(1)].double()
