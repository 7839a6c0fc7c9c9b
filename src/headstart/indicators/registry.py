"""The indicators by the names that users type."""

from typing import TYPE_CHECKING

from headstart.registry import Registry

if TYPE_CHECKING:
    from headstart.indicators.contract import Indicator

__all__ = ["INDICATORS"]

INDICATORS: "Registry[type[Indicator]]" = Registry(
    "indicator",
    group="headstart.indicators",
    contract="headstart.indicators:Indicator",
    members={
        "loss": "headstart.indicators.loss:Loss",
        "cosine": "headstart.indicators.cosine:Cosine",
        "el2n": "headstart.indicators.el2n:El2n",
        "kl": "headstart.indicators.kl:Kl",
        "grand": "headstart.indicators.grand:Grand",
        "arrow": "headstart.indicators.arrow:Arrow",
        "spectral": "headstart.indicators.spectral:Spectral",
        "tupate": "headstart.indicators.tupate:Tupate",
        "similarity": "headstart.indicators.similarity:Similarity",
    },
)
