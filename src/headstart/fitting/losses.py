"""How far a module is from the right answer to each row, by the probabilities with which it answers."""

import math

from scipy.special import log_softmax, logsumexp

from headstart.evaluating.evaluation import Evaluation

__all__ = ["row_losses"]


def row_losses(evaluation: Evaluation) -> list[float]:
    """−ln p of the right answer to every row, in nats; where several answers are right, of any of them.

    p is the probability that `predict` would give: among the options, as they are calibrated, so that it says nothing
    of how likely the options' format is. Where answers are open or no option is right, it is the loss of the target
    over its tokens; for a regression, the squared error.
    """
    if not evaluation.scores:
        return list(evaluation.losses)
    found = []
    for row, example in enumerate(evaluation.examples):
        options, lengths = evaluation.options[row], evaluation.lengths[row] if evaluation.lengths else ()
        right = [place for place, option in enumerate(options) if option in example.outputs]
        if not right:
            found.append(evaluation.losses[row])
            continue
        adjusted = evaluation.calibration.adjusted(evaluation.scores[row], options, lengths)
        shares = log_softmax(adjusted)
        found.append(math.nan if math.isnan(shares.sum()) else -float(logsumexp(shares[right])))
    return found
