"""Divergence from a module tuned on the new task itself."""

from torch import Tensor

from headstart.indicators.contract import Need, TokenIndicator, TokenStatistics

__all__ = ["Kl"]


class Kl(TokenIndicator):
    """−KL(p̃ ‖ p), p̃ from the reference module; this direction is that of the authors' code."""

    name = "kl"
    source = "Lv et al., 2023, §2.2"
    needs = frozenset({Need.PREDICTIONS, Need.REFERENCE})

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """−Σ_v p̃_v (log p̃_v − log p_v), (N, M), at most 0."""
        assert tokens.reference_log_p is not None  # the engine has checked that there is one
        reference = tokens.reference_log_p.to(tokens.logits.device)
        divergence = (reference.exp() * (reference - tokens.log_p.detach())).sum(-1)
        return -divergence.clamp(min=0)  # at most 0 by definition, except for rounding
