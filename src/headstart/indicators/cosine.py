"""The angle between prediction and label."""

from torch import Tensor

from headstart.indicators.contract import TokenIndicator, TokenStatistics

__all__ = ["Cosine"]


class Cosine(TokenIndicator):
    """cos(p, v) with v one-hot on the gold token g, p_g / ‖p‖₂: 1 if p is sure and right, 0 if it is sure and wrong."""

    name = "cosine"
    source = "Lv et al., 2023, §2.2"

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """cos(p_j, v_j), (N, M), between 0 and 1."""
        return tokens.gold_log_p.detach().exp() / tokens.squared_norm.sqrt()
