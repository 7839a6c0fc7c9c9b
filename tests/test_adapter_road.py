"""Bottleneck adapters merged, embedded, tuned and ranked."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headstart.backbones import Backbone
from headstart.blending import merge
from headstart.blending.ensemble import ensemble
from headstart.embeddings import tuned_parameters
from headstart.errors import MergeError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.formats import read_module
from headstart.hub import Hub
from headstart.kinds import AdapterModule, load_module, save_module
from headstart.tuning.tune import tune
from made_by_peft import ours
from naive import (
    assert_close,
    assert_same_parameters,
    encoded,
    random_lora,
)
from test_adapter import MLP0, random_adapter
from test_tuning import RECIPE, TASK

# Embeddings and merging


def test_layer_vectors_by_hand(llama: Backbone) -> None:
    # With m = 1 and d = 32 a layer of pfeiffer holds D (32), d (1), U (32) and u (32): 97 numbers, in this order.
    module = random_adapter(llama, seed=1, placement="pfeiffer", bottleneck=1)
    (vectors,) = module.layer_vectors()
    assert vectors.shape == (2, 97)
    assert torch.equal(vectors[0, :32], module.values[f"{MLP0}.down"][0])
    assert torch.equal(vectors[0, 65:], module.values[f"{MLP0}.up_bias"])
    assert_close(torch.from_numpy(tuned_parameters(module)), vectors.double().mean(0), within=1e-7)


def test_merging(llama: Backbone, tmp_path: Path) -> None:
    one, two = (random_adapter(llama, seed=seed, placement="houlsby") for seed in (1, 2))
    alone = merge([one], [1.0]).module
    assert_same_parameters(alone, one)
    merged = merge([one, two], [0.25, 0.75])
    for name, value in merged.module.parameters().items():
        assert_close(value, 0.25 * one.parameters()[name] + 0.75 * two.parameters()[name], within=1e-6)
    assert merged.error is None
    save_module(merged.module, tmp_path / "merged")
    assert_same_parameters(load_module(tmp_path / "merged"), merged.module)
    with pytest.raises(MergeError, match="space 'exact' does not apply; leave it out"):
        merge([one, two], [0.5, 0.5], space="exact")


def test_alignment_keeps_the_function(llama: Backbone) -> None:
    one, two = (random_adapter(llama, seed=seed, placement="houlsby") for seed in (1, 2))
    scaled = replace(two, computation=two.computation._replace(factor=4.0))
    aligned = one.aligned_to(scaled)
    assert isinstance(aligned, AdapterModule)
    assert aligned.computation.factor == 4.0
    found = ours(llama, [one, aligned], encoded(llama))
    assert_close(found[0], found[1], within=1e-4)
    with pytest.raises(MergeError, match="has a scaling of 0, so nothing can be merged into it"):
        one.aligned_to(replace(two, computation=two.computation._replace(factor=0.0)))


def test_unlike_designs_are_not_merged(llama: Backbone) -> None:
    one = random_adapter(llama, seed=1, placement="pfeiffer", name="one")
    other = random_adapter(llama, seed=2, placement="pfeiffer", activation="gelu", name="other")
    with pytest.raises(
        MergeError, match="'other' reads the sum through gelu and 'one' the sum through relu; merge adapters of one"
    ):
        merge([one, other], [0.5, 0.5])
    smaller = random_adapter(llama, seed=1, placement="pfeiffer", bottleneck=3, name="small")
    with pytest.raises(MergeError, match=r"is 3 in 'small' and 5 in 'one'|is 3×32 in 'small' and 5×32 in 'one'"):
        merge([one, smaller], [0.5, 0.5])
    with pytest.raises(MergeError, match=r"of several kinds \(1 adapter, 1 lora\); merge modules of one"):
        merge([one, random_lora(llama, seed=1)], [0.5, 0.5])


# End to end


def test_tuning_lowers_the_loss_and_round_trips(backbone: Backbone, tmp_path: Path) -> None:
    recipe = RECIPE.change(kind="adapter", bottleneck=4, placement="pfeiffer", lr=1e-2, select="loss")
    tuned = tune(TASK, backbone, recipe=recipe, seed=3)
    assert isinstance(tuned.module, AdapterModule)
    assert tuned.best.dev_loss < tuned.curve[0].dev_loss - 0.1
    assert not math.isnan(tuned.best.dev_score)
    saved = save_module(tuned.module, tmp_path / "tuned")
    again = load_module(tmp_path / "tuned")
    assert again.card == saved.card
    assert_same_parameters(again, tuned.module)
    (found,) = evaluate_many([again], TASK.dev, backbone, metric="ACC")
    assert found.loss == pytest.approx(tuned.best.dev_loss, abs=1e-5)


def test_an_ensemble_of_adapters(llama: Backbone, tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    for seed in (1, 2, 3):
        save_module(random_adapter(llama, seed=seed), tmp_path / f"m{seed}")
        hub.add(tmp_path / f"m{seed}")
    module = ensemble(TASK, hub, llama, blend="softmax:indicator=grand").module
    assert isinstance(module, AdapterModule)
    assert [donor.name for donor in module.card.donors] == ["m1", "m2", "m3"]
    save_module(module, tmp_path / "blend")
    assert read_module(tmp_path / "blend").card.kind == "adapter"
