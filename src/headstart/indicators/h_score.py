"""How much of the spread of a module's features lies between the classes."""

import torch
from torch import Tensor
from torch.nn import functional

from headstart.indicators.contract import FeatureIndicator

__all__ = ["HScore"]


class HScore(FeatureIndicator):
    """(1 − a) · tr(Σ_a⁻¹ Σ_between), Σ_a = (1 − a) Σ + a (tr Σ / D) I with the shrinkage a of Ledoit and Wolf (2004).

    Σ is the covariance of the features (divided by E), Σ_between that of the class means. Without shrinkage, any
    features of more dimensions than examples would have the same score, the number of classes less 1.
    """

    name = "h_score"
    source = "Bao et al., 2019; shrinkage after Ibrahim et al., 2022"
    distribution = True

    def from_features(self, features: Tensor, targets: Tensor) -> Tensor:
        """The score of each module, (N,), at least 0; 0 if all features are equal."""
        count, width = features.shape[1:]
        centred = features - features.mean(1, keepdim=True)
        members = functional.one_hot(targets).double()
        sizes = members.sum(0)
        means = members.T @ centred / sizes.unsqueeze(1)
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        variances = singular.square() / count
        scale = variances.sum(1, keepdim=True) / width
        shrinkage = _shrinkage(centred, variances, scale)
        # The class means lie in the span of the features, so nothing outside of it counts.
        within = ((1 - shrinkage) * variances + shrinkage * scale).unsqueeze(1)
        along = (means @ directions.mT).square() * (sizes / count).unsqueeze(1)
        seen = within > 1e-12 * scale.unsqueeze(1)
        ratios = torch.where(seen, along / torch.where(seen, within, 1), 0)
        return (1 - shrinkage.squeeze(1)) * ratios.sum((1, 2))


def _shrinkage(centred: Tensor, variances: Tensor, scale: Tensor) -> Tensor:
    """a (N, 1): the estimated error of Σ over its distance from (tr Σ / D) I (Ledoit and Wolf, 2004, lemma 3.4)."""
    count, width = centred.shape[1:]
    squared = variances.square().sum(1, keepdim=True)
    distance = squared - width * scale.square()
    fourth = centred.square().sum(2).square().sum(1, keepdim=True)
    error = (fourth / count - squared) / count
    return torch.where(distance > 0, (error / distance.clamp(min=1e-300)).clamp(0, 1), 1)
