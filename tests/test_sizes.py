"""LoRA modules of a comparison at one rank and on the same layers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from headstart.comparing.methods.contract import Pool
from headstart.comparing.sizes import at_size
from headstart.comparing.starting import common_rank
from headstart.kinds import LoraModule, LoraSettings, Module, fresh_module, load_module, save_module
from headstart.testing import tiny_backbone
from small_hub import filled, module
from test_methods import norms_of

# ---- one rank


def update(module: Module, path: str) -> Tensor:
    assert isinstance(module, LoraModule)
    factor = module.factors[path]
    return factor.scaling * (factor.b.double() @ factor.a.double())


def test_a_module_is_brought_to_a_rank() -> None:
    backbone = tiny_backbone("llama")
    one = module(backbone, "ada", seed=1, rank=3)
    assert at_size(one, 3, seed=0) is one
    assert at_size(one, None, seed=0) is one
    longer, shorter = at_size(one, 6, seed=0), at_size(one, 2, seed=0)
    for found, rank in ((longer, 6), (shorter, 2)):
        assert isinstance(found, LoraModule)
        found.check(backbone)
        assert {factor.a.shape[0] for factor in found.factors.values()} == {rank}
        assert (found.card.rank, found.config["r"]) == (rank, rank)
        assert found.name == "ada"
    assert isinstance(longer, LoraModule)
    total, missed = 0.0, 0.0
    for path in one.factors:
        torch.testing.assert_close(update(longer, path), update(one, path), rtol=1e-6, atol=1e-6)
        assert longer.factors[path].a[3:].abs().max() > 0
        assert longer.factors[path].b[:, 3:].abs().max() == 0
        tail = torch.linalg.svdvals(update(one, path))[2:]
        assert float((update(shorter, path) - update(one, path)).norm()) == pytest.approx(float(tail.norm()), rel=1e-4)
        total, missed = total + float(update(one, path).norm() ** 2), missed + float(tail.norm() ** 2)
    assert shorter.card.merge_error == pytest.approx(math.sqrt(missed / total), rel=1e-4)


def test_the_common_rank_is_the_largest_of_the_hub_or_the_one_asked_for() -> None:
    modules = [filled({"one": (5, 4, rank)}, seed=rank) for rank in (2, 3, 1)]
    assert common_rank(modules, asked=None) == 3
    assert common_rank(modules, asked=7) == 7
    backbone = tiny_backbone("llama")
    assert common_rank([fresh_module("ia3", backbone, {}, name="m", seed=0)], asked=None) is None


def test_a_module_is_brought_to_the_layers_of_another() -> None:
    backbone = tiny_backbone("llama")
    one = module(backbone, "ada", seed=1, rank=2, task="reviews")
    # PEFT would take the layer's number as a condition on every name in target_modules.
    one = replace(one, config={**one.config, "layers_to_transform": [0, 1], "exclude_modules": ["k_proj"]})
    every = LoraModule.fresh(
        backbone, LoraSettings(3, 6.0, ("q_proj", "v_proj", "k_proj", "embed_tokens")), name="x", seed=2
    )
    found = at_size(one, 3, like=every, seed=0)
    assert isinstance(found, LoraModule)
    assert (found.name, found.card.task, found.card.rank) == ("ada", "reviews", 3)
    assert found.card.parameters == every.card.parameters
    assert found.card.targets == every.card.targets
    assert {field: found.config[field] for field in ("layers_to_transform", "exclude_modules")} == dict.fromkeys(
        ("layers_to_transform", "exclude_modules")
    )
    untuned = every.reset(seed=0)
    for path, factor in found.factors.items():
        if path in one.factors:
            torch.testing.assert_close(update(found, path), update(one, path), rtol=1e-6, atol=1e-6)
            assert torch.equal(factor.a[2:], untuned.factors[path].a[2:])
        else:
            assert update(found, path).abs().max() == 0
            assert torch.equal(factor.a, untuned.factors[path].a)
            assert torch.equal(factor.b, untuned.factors[path].b)


def test_a_module_on_more_layers_computes_what_it_did_and_is_read_back(tmp_path: Path) -> None:
    backbone = tiny_backbone("llama")
    one = module(backbone, "ada", seed=1, rank=2)
    every = LoraModule.fresh(backbone, LoraSettings(4, 6.0, ("k_proj", "v_proj", "o_proj")), name="x", seed=2)
    found = at_size(one, 4, like=every, seed=0)
    ids = torch.arange(1, 13).view(1, -1)

    def logits(of: Module) -> Tensor:
        with type(of).stack([of], backbone).attach(backbone), torch.no_grad():
            return backbone.model(input_ids=ids).logits

    torch.testing.assert_close(logits(found), logits(one), rtol=1e-5, atol=1e-5)
    save_module(found, tmp_path / "m")
    again = load_module(tmp_path / "m")
    assert again.digest() == found.digest()
    torch.testing.assert_close(logits(again), logits(one), rtol=1e-5, atol=1e-5)


def test_a_pool_has_the_layers_of_all_its_modules_and_their_norms() -> None:
    shapes = [{"one": (5, 4, 2)}, {"one": (5, 4, 2)}, {"one": (5, 4, 3), "two": (6, 4, 3)}, {"two": (6, 4, 1)}]
    modules: list[Module] = [filled(shape, seed=seed, scaling=1.0 + seed) for seed, shape in enumerate(shapes)]
    pool = Pool(tuple(modules), tiny_backbone("llama"), 3)
    assert isinstance(pool.shape, LoraModule)
    assert {path: tuple(f.a.shape) for path, f in pool.shape.factors.items()} == {"one": (3, 4), "two": (3, 4)}
    assert {path: f.scaling for path, f in pool.shape.factors.items()} == {"one": 1.0, "two": 3.0}
    assert pool.norms["one"][0] == pytest.approx(sum(norms_of(modules[i])["one"] for i in (0, 1)) / 2)
    assert pool.norms["two"][0] == pytest.approx(norms_of(modules[2])["two"])
    own = Pool(tuple(modules), tiny_backbone("llama"), None)
    assert own.shape.card.targets == ("one",)
