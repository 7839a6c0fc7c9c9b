"""The distance between prediction and label."""

from torch import Tensor

from headstart.indicators.contract import TokenIndicator, TokenStatistics

__all__ = ["El2n"]


class El2n(TokenIndicator):
    """−‖p − v‖₂ with v one-hot on the gold token g; ‖p − v‖² = ‖p‖² − 2 p_g + 1."""

    name = "el2n"
    source = "Lv et al., 2023, §2.2 (after Paul et al., 2021)"

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """−‖p_j − v_j‖₂, (N, M), between −√2 and 0."""
        gold = tokens.gold_log_p.detach().exp()
        return -(tokens.squared_norm - 2 * gold + 1).clamp(min=0).sqrt()
