"""Zero-shot cross-entropy."""

from torch import Tensor

from headstart.indicators.contract import TokenIndicator, TokenStatistics

__all__ = ["Loss"]


class Loss(TokenIndicator):
    """log p of the gold token, in nats: the negative cross-entropy, without any update of the module.

    For a regression on an encoder, the negative squared error.
    """

    name = "loss"
    source = "Lv et al., 2023, §2.2"
    distribution = False

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """log p_j[gold], (N, M)."""
        return tokens.gold_log_p
