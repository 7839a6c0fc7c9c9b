"""How large the modules of a hub are, layer by layer."""

from collections.abc import Mapping, Sequence
from statistics import median

from headstart.backbones import Backbone
from headstart.kinds import AnyModule, LoraModule, Module

__all__ = ["MOST", "typical_norms"]

MOST = 256
"""At most this many modules are read, spread evenly over a larger hub."""


def typical_norms(modules: Sequence[AnyModule], backbone: Backbone) -> Mapping[str, tuple[float, ...]]:
    """Median Frobenius norms over the modules.

    For LoRA: by layer, (‖ΔW‖, ‖A‖), over the modules that adapt it. For other kinds: by parameter, (‖θ − origin‖,).
    Modules are read one at a time.
    """
    found: dict[str, list[tuple[float, ...]]] = {}
    for index in range(0, len(modules), max(1, -(-len(modules) // MOST))):
        for name, norms in _norms(modules[index].load(), backbone).items():
            found.setdefault(name, []).append(norms)
    return {name: tuple(median(column) for column in zip(*rows, strict=True)) for name, rows in found.items()}


def _norms(module: Module, backbone: Backbone) -> Mapping[str, tuple[float, ...]]:
    if isinstance(module, LoraModule):
        return {path: (factor.norm(), float(factor.a.double().norm())) for path, factor in module.factors.items()}
    origin = module.origin(backbone)
    return {
        name: (float((value.double() - origin[name].double()).norm()),) for name, value in module.parameters().items()
    }
