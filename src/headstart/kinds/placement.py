"""Where bottleneck adapters are in a backbone, and how AdapterHub writes that down."""

import re
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from headstart.architectures import ARCHITECTURES, Architecture, architecture_of
from headstart.backbones import Backbone
from headstart.errors import ModuleError
from headstart.formats.libraries.adapterhub_adapter import PARTS, bottleneck_size, reduction_factor

__all__ = [
    "PLACEMENTS",
    "Placement",
    "Site",
    "adapter_sites",
    "adapterhub_config",
    "backbone_width",
    "reads_in",
    "require_size",
]


class Placement(NamedTuple):
    """A design of adapters: the sublayers that get one, by AdapterHub's fields; what it reads; and its usual shape.

    "sum" means "normed" in a backbone that normalizes after a sublayer; see `reads_in`.
    """

    parts: tuple[str, ...]
    reads: str
    activation: str
    biases: bool


PLACEMENTS = {
    "houlsby": Placement(("mh_adapter", "output_adapter"), "output", "swish", biases=True),
    "pfeiffer": Placement(("output_adapter",), "sum", "relu", biases=True),
    "pewe": Placement(("mh_adapter", "cross_adapter", "output_adapter"), "output", "swish", biases=False),
}
"""By the name that users type: AdapterHub's double_seq_bn and seq_bn, and Lv et al., 2023, whose adapters come after
self-attention, cross-attention and feed-forward and have no biases."""


class Site(NamedTuple):
    """A site that can have an adapter.

    `part`: AdapterHub's field that enables it; `number`: of its layer, as `leave_out` counts; `norm`: path of the layer
    norm before or after the sublayer; `stream`: path of the layer that is called with the residual stream, and the
    position of that input in its signature, from 0; `key`: path under which AdapterHub keeps adapters.
    """

    part: str
    number: int
    norm: str
    stream: tuple[str, int]
    key: str


def adapter_sites(backbone: Backbone) -> dict[str, Site]:
    """Every sublayer that can have an adapter, by its path.

    Raises `ModuleError` if the backbone's architecture is not known.
    """
    architecture = _architecture(backbone)
    sites: dict[str, Site] = {}
    before = 0  # AdapterHub numbers an encoder-decoder's layers in one sequence.
    for blocks in architecture.blocks:
        stack = f"{architecture.base}{blocks.path}"
        count = len(list(backbone.model.get_submodule(stack).children()))
        for index, sublayer in product(range(count), blocks.sublayers):
            block = f"{stack}.{index}"
            stream, number = sublayer.stream
            sites[f"{block}.{sublayer.output}"] = Site(
                PARTS[sublayer.name],
                before + index,
                f"{block}.{sublayer.norm}",
                (f"{block}.{stream}", number),
                f"{block}.{sublayer.adapters}",
            )
        before += count
    return sites


def reads_in(backbone: Backbone, placement: Placement) -> str:
    """What adapters of this placement read in this backbone, which is one that `adapter_sites` knows."""
    behind = _architecture(backbone).norm_behind
    return "normed" if behind and placement.reads == "sum" else placement.reads


def _architecture(backbone: Backbone) -> Architecture:
    config = backbone.model.config
    found = architecture_of(config.model_type, config.to_dict())
    if found is None and config.model_type in ARCHITECTURES:
        fields = ARCHITECTURES[config.model_type].requires
        raise ModuleError(
            f"{backbone.name} is a '{config.model_type}' built in another way: bottleneck adapters are placed where "
            f"{', '.join(f'{field} is {value}' for field, value in fields.items())}; use another kind"
        )
    if found is None:
        raise ModuleError(
            f"{backbone.name} is a '{config.model_type}', and bottleneck adapters are placed in: "
            f"{', '.join(ARCHITECTURES)}; use another kind"
        )
    return found


def backbone_width(backbone: Backbone) -> int:
    """The width of the residual stream."""
    return int(backbone.model.config.hidden_size)


def require_size(size: tuple[int, int], method: Mapping[str, Any], *, number: int, what: str) -> None:
    """Raise `ModuleError` unless AdapterHub makes this bottleneck from a reduction factor given layer by layer.

    `size` is (size, width), `number` the layer's; `what` names module and site for the error.
    """
    stated = method.get("reduction_factor")
    if not isinstance(stated, Mapping):
        return
    factor = stated.get(str(number), stated.get("default"))
    made, width = size
    if factor is None or bottleneck_size(width, factor) != made:
        raise ModuleError(
            f"the bottleneck of {made} that module {what} is not what reduction_factor says for layer {number}, "
            f"{factor}; correct reduction_factor, or save the module again"
        )


def adapterhub_config(placement: Placement, size: int, *, name: str, backbone: Backbone) -> dict[str, Any]:
    """AdapterHub's configuration of such adapters."""
    width, before = backbone_width(backbone), placement.reads == "sum"
    method: dict[str, Any] = {
        **{part: part in placement.parts for part in PARTS.values()},
        "reduction_factor": reduction_factor(width, size), "non_linearity": placement.activation,
        "original_ln_before": before, "original_ln_after": True, "residual_before_ln": True,
        "adapter_residual_before_ln": False, "ln_before": False, "ln_after": False, "is_parallel": False,
        "scaling": 1.0, "init_weights": "mam_adapter", "use_gating": False, "phm_layer": False, "inv_adapter": None,
        "leave_out": [], "dropout": 0.0,
    }  # fmt: skip
    # AdapterHub's adapters always have biases. It keeps fields that it does not know, and begins with biases of zero.
    return {
        "config": method if placement.biases else method | {"biases": False},
        "hidden_size": width,
        "model_class": type(backbone.model).__name__,
        "model_name": backbone.name,
        "model_type": backbone.model.config.model_type,
        # It becomes part of the tensors' names, where a dot would separate parts.
        "name": re.sub(r"\W", "_", name) or "adapter",
        "version": "adapters.1.3.0",
    }
