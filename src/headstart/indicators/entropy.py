"""How sure a module is of its predictions."""

from torch import Tensor

from headstart.indicators.contract import TokenIndicator, TokenStatistics

__all__ = ["Entropy"]


class Entropy(TokenIndicator):
    """−H(p) = Σ_v p_v log p_v in nats: the negative entropy of the prediction; the gold token does not count."""

    name = "entropy"
    source = "Grandvalet and Bengio, 2004; Wang et al., 2021 (Tent)"

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """Σ_v p_v log p_v, (N, M), between −log V and 0."""
        log_p = tokens.log_p.detach()
        return (log_p.exp() * log_p).sum(-1)
