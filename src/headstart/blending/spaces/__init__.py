"""Merge spaces, one file each: a space says which tensors are summed. The weights come from `rules`."""

from typing import TYPE_CHECKING

from headstart.registry import Registry

if TYPE_CHECKING:
    from headstart.blending.spaces.contract import Space

__all__ = ["SPACES"]

SPACES: "Registry[Space]" = Registry(
    "merge space",
    group="headstart.spaces",
    contract="headstart.blending:Space",
    members={
        "parameters": "headstart.blending.spaces.parameters:Parameters",
        "exact": "headstart.blending.spaces.exact:Exact",
        "svd": "headstart.blending.spaces.svd:Svd",
        "core": "headstart.blending.spaces.core_space:Core",
        "core_ties": "headstart.blending.spaces.core_ties:CoreTies",
        "core_tsv": "headstart.blending.spaces.core_tsv:CoreTsv",
        "core_iso": "headstart.blending.spaces.core_iso:CoreIso",
        "ties": "headstart.blending.spaces.ties:Ties",
        "dare": "headstart.blending.spaces.dare:Dare",
        "auto": "headstart.blending.spaces.auto:Auto",
    },
    instances=True,
)
