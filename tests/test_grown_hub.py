"""The hub of hundreds that `benchmarks/racing.py` grows on the spot."""

import torch
from benchmarks.racing import BETWEEN, PERTURBED, SIZES, grown

from headstart.backbones import Backbone
from small_hub import module

pytest_plugins = ["small_road"]


def test_a_hub_grows_from_its_donors_the_same_way_every_time(llama: Backbone) -> None:
    donors = [module(llama, name, seed=seed) for seed, name in enumerate("abc")]
    other = module(llama, "a", seed=7)
    hub, again = (list(grown(donors, [other])) for _ in range(2))
    assert len(hub) == 3 + 3 * len(SIZES) * PERTURBED + 3 * BETWEEN + 1
    names = [each.card.name for each in hub]
    assert len(set(names)) == len(names)
    assert (names[:3], names[-1]) == (["a", "b", "c"], "a, another seed")
    for one, same in zip(hub, again, strict=True):
        for key, value in one.parameters().items():
            assert torch.equal(value, same.parameters()[key])
    by_name = dict(zip(names, hub, strict=True))
    for key, value in donors[0].parameters().items():
        assert torch.equal(by_name["a, another seed"].parameters()[key], other.parameters()[key])
        moved = by_name["a~0.1.0"].parameters()[key] - value
        ratio = moved.square().mean().sqrt() / value.square().mean().sqrt()
        assert 0.05 < float(ratio) < 0.2, "noise of a tenth of the tensor's size"
        ends = torch.stack([value, donors[1].parameters()[key]])
        mixed = by_name["a+b.0"].parameters()[key]
        assert bool(((ends.amin(0) - 1e-6 <= mixed) & (mixed <= ends.amax(0) + 1e-6)).all())
