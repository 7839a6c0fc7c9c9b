"""The control: a random module as large as the hub's modules."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from headstart.blending import Blend
from headstart.comparing.methods.contract import Begun, Draw, Method
from headstart.kinds import LoraModule, Module
from headstart.kinds.lora import Factors

__all__ = ["Random"]


class Random(Method):
    """Random directions with the norms of the hub's modules, drawn anew for every seed.

    LoRA's A and B are drawn from a normal distribution and scaled so that ‖ΔW‖ and ‖A‖ of every layer are the medians
    over the modules of the commonest shape that adapts it. For other kinds, every parameter's change from its origin
    (`Module.origin`) is drawn so and scaled to the median norm.
    """

    name = "random"
    source = "a control for what the hub's directions are worth"

    def begin(self, draw: Draw, blend: Blend | None) -> Begun:
        """See the class."""
        del blend
        blank = draw.pool.shape.untuned(draw.pool.backbone, seed=draw.seed)
        # With the bare number as the seed, other draws of random modules would come out again.
        mark = hashlib.sha256(f"headstart random {draw.seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mark[:7], "little"))
        if isinstance(blank, LoraModule):
            drawn = _factors(blank, draw.pool.norms, generator)
        else:
            origin = blank.origin(draw.pool.backbone)
            drawn = _changed(blank, origin, norms=draw.pool.norms, generator=generator)
        card = drawn.card.model_copy(update={"notes": "Random directions with the norms of the hub's modules."})
        return Begun(replace(drawn, card=card))


def _factors(blank: LoraModule, norms: Mapping[str, tuple[float, ...]], generator: torch.Generator) -> Module:
    parameters = blank.parameters()
    for path, factor in sorted(blank.factors.items()):
        update, size = norms[path]
        a = _of_norm(torch.randn(factor.a.shape, generator=generator), size)
        b = torch.randn(factor.b.shape, generator=generator)
        made = Factors(a, b, factor.scaling).norm()
        parameters |= {f"{path}.a": a, f"{path}.b": b * (update / made) if made else torch.zeros_like(b)}
    return blank.with_parameters(parameters)


def _changed(
    blank: Module, origin: Mapping[str, Tensor], *, norms: Mapping[str, tuple[float, ...]], generator: torch.Generator
) -> Module:
    return blank.with_parameters(
        {
            name: start + _of_norm(torch.randn(start.shape, generator=generator), norms[name][0])
            for name, start in sorted(origin.items())
        }
    )


def _of_norm(values: Tensor, norm: float) -> Tensor:
    return values * (norm / float(values.norm()))
