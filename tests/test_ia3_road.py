"""IA3 modules merged, embedded, tuned, ranked and catalogued."""

import contextlib
import sqlite3
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch

import made_by_peft
from headstart.backbones import Backbone
from headstart.blending import Blend, merge
from headstart.blending.ensemble import ensemble
from headstart.embeddings import tuned_parameters
from headstart.errors import MergeError, ModuleError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.formats import read_module
from headstart.hub import Hub, catalogue
from headstart.kinds import IA3Module, load_module, save_module
from headstart.tuning.tune import tune
from naive import (
    BACKBONES,
    REVIEWS,
    assert_close,
    assert_same_parameters,
    assert_untouched,
    encoded,
    load,
    photograph,
    random_lora,
)
from test_ia3 import IA3, K0, random_ia3
from test_tuning import TASK, plain_loop

# Embeddings and merging


def test_layer_vectors_by_hand(llama: Backbone) -> None:
    # Layer 0 holds down = [1 2] and k = [3], layer 1 holds down = [5 6] and k = [7]; the embedding is their mean.
    found = {
        "layers.0.k": [3.0], "layers.0.down": [1.0, 2.0], "layers.1.k": [7.0], "layers.1.down": [5.0, 6.0],
    }  # fmt: skip
    vectors = {f"{path}.l": torch.tensor(values) for path, values in found.items()}
    inputs = frozenset(path for path in found if path.endswith("down"))
    module = replace(random_ia3(llama, seed=1), values=vectors, inputs=inputs)
    assert [rows.tolist() for rows in module.layer_vectors()] == [[[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]]
    assert tuned_parameters(module).tolist() == [3.0, 4.0, 5.0]


def test_merging(backbone: Backbone, tmp_path: Path) -> None:
    one, other = (random_ia3(backbone, seed=seed) for seed in (1, 2))
    assert_same_parameters(merge([one, other], [1.0, 0.0]).module, one)
    items = encoded(backbone)
    merged = merge([one, other], [0.25, 0.75], name="both")
    assert merged.error is None
    # A factor of 2 and one of 4 at weights ¼ and ¾ make 3½.
    name = next(iter(one.parameters()))
    two, four = (
        m.with_parameters({**m.parameters(), name: torch.full_like(m.parameters()[name], v)})
        for m, v in ((one, 2.0), (other, 4.0))
    )
    assert set(merge([two, four], [0.25, 0.75]).module.parameters()[name].tolist()) == {3.5}
    save_module(merged.module, tmp_path / "both")
    again = load_module(tmp_path / "both")
    again.check(backbone)
    found = made_by_peft.ours(backbone, [merged.module, again], items)
    assert torch.equal(found[0], found[1])
    with pytest.raises(MergeError, match=r"is a ia3|LoRA"):
        merge([one, other], [0.5, 0.5], space="exact")


def test_modules_that_cannot_be_averaged(llama: Backbone) -> None:
    one = random_ia3(llama, seed=1, name="one")
    few = replace(one, values={f"{K0}.l": one.vectors[K0]}, card=one.card.model_copy(update={"name": "few"}))
    with pytest.raises(MergeError, match=r"is missing in 'few' and 48 in 'one'; leave one out \(--exclude few, or Hub"):
        few.aligned_to(one)
    square = {f"{K0}.l": torch.ones(16)}
    output = replace(one, values=square, inputs=frozenset())
    side = replace(output, inputs=frozenset({K0}), card=one.card.model_copy(update={"name": "two"}))
    with pytest.raises(MergeError, match=rf"'one' and 'two' scale different sides of {K0}, one its input and one"):
        output.aligned_to(side)
    with pytest.raises(MergeError, match=r"'one' is a ia3 and 'm' a lora; merge modules of one kind"):
        one.aligned_to(random_lora(llama, seed=1, name="m"))


# The whole road


@pytest.mark.parametrize("name", BACKBONES)
def test_tuning_learns_and_leaves_the_backbone_alone(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    backbone = load(request.getfixturevalue(name))
    before = photograph(backbone)
    tuned = tune(TASK, backbone, recipe=IA3.change(max_steps=24, eval_every=8, lr=5e-2, select="loss"))
    assert_untouched(backbone, before)
    assert min(point.dev_loss for point in tuned.curve) < 0.7 * tuned.curve[0].dev_loss
    save_module(tuned.module, tmp_path / "tuned")
    again = load_module(tmp_path / "tuned")
    assert_same_parameters(again, tuned.module)
    (found,) = evaluate_many([again], TASK.dev, backbone, metric="ACC")
    assert found.loss == pytest.approx(tuned.best.dev_loss, abs=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_tuning_is_a_plain_loop_over_a_peft_model(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(name)
    backbone = load(folder)
    start = save_module(random_ia3(backbone, seed=1), tmp_path / "start")
    recipe = IA3.change(
        lr=1e-3, batch_size=len(REVIEWS), max_steps=4, eval_every=4, schedule="constant", warmup_steps=0,
        weight_decay=0.01, clip=0.5, select="loss",
    )  # fmt: skip
    tuned = tune(TASK, backbone, start=start, recipe=recipe)
    assert tuned.best.step == 4, "the state compared must be the last one"
    expected = plain_loop(backbone, folder, tmp_path / "start", lr=1e-3, steps=4, clip=0.5)
    found, began = tuned.module.state_dict(), start.state_dict()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert_close(value, expected[key], within=1e-5)
    assert max((found[key] - began[key]).abs().max().item() for key in found) > 1e-3, "it must have moved"


@pytest.mark.parametrize("indicator", ["cosine", "grand", "kl", "tupate"])
def test_a_hub_of_them_is_ranked_and_blended(tiny_llama: Path, tmp_path: Path, indicator: str) -> None:
    backbone = load(tiny_llama)
    hub = Hub.create(tmp_path / "hub")
    for seed in range(3):
        save_module(random_ia3(backbone, seed=seed), tmp_path / f"m{seed}")
        hub.add(tmp_path / f"m{seed}")
    blend = Blend(indicator=indicator, temperature=1.0)
    start = ensemble(TASK, hub, backbone, blend=blend, recipe=IA3.change(max_steps=4))
    assert isinstance(start.module, IA3Module)
    assert 1 < start.merged.effective <= 3
    save_module(start.module, tmp_path / "start")
    assert_same_parameters(load_module(tmp_path / "start"), start.module)


def test_a_hub_with_a_lora_of_the_same_layers(llama: Backbone, tmp_path: Path) -> None:
    # LoRA shows both widths of down_proj, IA3 its input only: 48→32 and 48→? agree, 48→32 and 40→? do not.
    hub = Hub.create(tmp_path / "hub")
    save_module(random_ia3(llama, seed=1), tmp_path / "scales")
    save_module(random_lora(llama, seed=1), tmp_path / "low")
    hub.add(tmp_path / "scales")
    hub.add(tmp_path / "low")
    bad = random_ia3(llama, seed=2)
    vectors = {f"{path}.l": torch.ones(40) if path in bad.inputs else held for path, held in bad.vectors.items()}
    card = bad.card.model_copy(update={"parameters": sum(map(len, vectors.values()))})
    save_module(replace(bad, values=vectors, card=card), tmp_path / "bad")
    with pytest.raises(ModuleError, match=r"layer '\S+down_proj' is 40→\?, the hub's modules have 48→32; use one hub"):
        hub.add(tmp_path / "bad")
    assert read_module(hub.path / "scales").card.targets == tuple(sorted(random_ia3(llama, seed=1).vectors))


def test_a_catalogue_from_before_learns_of_open_widths(llama: Backbone, tmp_path: Path) -> None:
    save_module(random_ia3(llama, seed=1), tmp_path / "scales")
    save_module(random_lora(llama, seed=1), tmp_path / "low")
    Hub.create(tmp_path / "hub").add(tmp_path / "low")
    path = tmp_path / "hub" / catalogue.CATALOGUE_FILE
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as before:
        first = min(resources.files("headstart.hub.migrations").iterdir(), key=lambda file: file.name)
        before.executescript(first.read_text(encoding="utf-8"))
        before.execute("INSERT INTO modules (name, stamp) VALUES ('low', 'of before')")
        before.execute("PRAGMA user_version = 1")
        before.commit()
    hub = Hub.open(tmp_path / "hub")
    hub.add(tmp_path / "scales")
    assert hub.names() == ["low", "scales"]
    assert hub.problems() == []
