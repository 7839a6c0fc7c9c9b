"""What a tuned module says of itself, which rows it saw, and what cannot be tuned."""

from dataclasses import replace
from pathlib import Path

import pytest

import made_by_peft
from headstart.backbones import Backbone
from headstart.errors import ModuleError, SettingError, TaskError
from headstart.evaluating.evaluate_many import evaluate_many
from headstart.kinds import LoraModule, load_module, save_module
from headstart.tuning.lane import CurvePoint, Tuned
from headstart.tuning.order import RowOrder
from headstart.tuning.tune import text_format_of, tune
from naive import (
    REVIEWS,
    assert_same_parameters,
    load,
    random_lora,
)
from test_tuning import RECIPE, TASK


def test_the_card_tells_where_the_module_comes_from(llama: Backbone, tmp_path: Path) -> None:
    tuned = tune(TASK, llama, recipe=RECIPE, name="mine", license="mit", seed=3)
    card = tuned.module.card
    assert (card.name, card.task, card.family, card.metric) == ("mine", "reviews", "sentiment", "ACC")
    assert (card.score, card.train_rows) == (tuned.best.dev_score, len(REVIEWS))
    assert card.text_format == text_format_of(RECIPE)
    assert (card.license, card.dataset_license, card.base_model) == ("mit", "cc0-1.0", "tiny-llama")
    assert card.backbone == llama.fingerprint
    assert (card.rank, card.scaling) == (2, 2.0)
    assert card.notes == f"Tuned with recipe 'tiny', seed 3; best at step {tuned.best.step} of 12."
    saved = save_module(tuned.module, tmp_path / "mine")
    assert load_module(tmp_path / "mine").card == saved.card
    assert tune(TASK, llama, recipe=RECIPE).module.name == "reviews"


def test_a_given_start_keeps_its_shape_and_is_not_changed(llama: Backbone) -> None:
    start = random_lora(llama, seed=1, rank=3)
    kept = {name: value.clone() for name, value in start.parameters().items()}
    tuned = tune(TASK, llama, start=start, recipe=RECIPE)
    assert tuned.module.card.rank == 3
    assert_same_parameters(start, start.with_parameters(kept))
    zero = evaluate_many([start], TASK.dev, llama, metric="ACC", text_format=text_format_of(RECIPE))[0]
    assert (tuned.curve[0].dev_score, tuned.curve[0].dev_loss) == (zero.score, pytest.approx(zero.loss, abs=1e-5))


def test_max_dev_looks_at_the_first_rows(llama: Backbone) -> None:
    start = random_lora(llama, seed=1)
    tuned = tune(TASK, llama, start=start, recipe=RECIPE.change(max_dev=2, max_steps=1, eval_every=1, warmup_steps=0))
    (found,) = evaluate_many([start], TASK.dev[:2], llama, metric="ACC", text_format=text_format_of(RECIPE))
    assert tuned.curve[0].dev_loss == pytest.approx(found.loss, abs=1e-5)


def test_every_row_is_used_once_an_epoch(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    at = RowOrder.at

    def watch(self: RowOrder, step: int) -> list[int]:
        seen.append(tuple(at(self, step)))
        return list(seen[-1])

    monkeypatch.setattr(RowOrder, "at", watch)
    tune(TASK, llama, recipe=RECIPE.change(batch_size=4, max_steps=8, eval_every=8))
    # Six rows in batches of at most 4: two steps an epoch, four epochs.
    assert {len(indices) for indices in seen} == {2, 4}
    epochs = [sorted(seen[first] + seen[first + 1]) for first in range(0, 8, 2)]
    assert epochs == [[0, 1, 2, 3, 4, 5]] * 4
    assert len({seen[first] for first in range(8)}) > 2, "the order must change"


# What is refused


@pytest.mark.parametrize(
    ("tracker", "message"), [("nosuch", "unknown tracker 'nosuch'"), ("aim", "the tracker 'aim' is not installed")]
)
def test_a_tracker_that_cannot_be_had_is_refused(tracker: str, message: str, llama: Backbone) -> None:
    with pytest.raises(SettingError, match=message):
        tune(TASK, llama, recipe=RECIPE, tracker=tracker)


def test_errors(llama: Backbone, tiny_llama: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="unknown recipe 'secret'; choose one of: few-shot, full, tupate, quick"):
        tune(TASK, llama, recipe="secret")
    with pytest.raises(SettingError, match="unknown optimizer 'luck'; choose one of: adamw, adafactor"):
        tune(TASK, llama, recipe=RECIPE.change(optimizer="luck"))
    with pytest.raises(SettingError, match="unknown schedule 'whenever'; choose one of: linear, cosine"):
        tune(TASK, llama, recipe=RECIPE.change(schedule="whenever"))
    with pytest.raises(TaskError, match="has no split 'dev'"):
        tune(replace(TASK, splits={"train": REVIEWS}), llama, recipe=RECIPE)
    for splits in ({"train": (), "dev": REVIEWS}, {"train": REVIEWS, "dev": ()}):
        with pytest.raises(TaskError, match="task 'reviews' has an empty train or dev split; add rows to it"):
            tune(replace(TASK, splits=splits), llama, recipe=RECIPE)
    with pytest.raises(ModuleError, match="another backbone"):
        tune(TASK, llama, start=random_lora(load(tiny_gpt2), seed=1), recipe=RECIPE)
    dora = load_module(made_by_peft.make(tiny_llama, tmp_path / "dora", use_dora=True))
    with pytest.raises(ModuleError, match=r"'dora' is a LoRA variant \(DoRA\) that Headstart cannot tune; start from"):
        tune(TASK, llama, start=dora, recipe=RECIPE)


def test_a_fresh_start_has_the_recipe_s_shape(llama: Backbone) -> None:
    recipe = RECIPE.change(rank=5, alpha=10.0, targets=("v_proj",), max_steps=1, eval_every=1, warmup_steps=0)
    module = tune(TASK, llama, recipe=recipe).module
    assert isinstance(module, LoraModule)
    assert {path.rpartition(".")[2] for path in module.factors} == {"v_proj"}
    assert {(f.a.shape[0], f.scaling) for f in module.factors.values()} == {(5, 2.0)}


def test_a_module_remembers_what_it_grew_from(llama: Backbone, tmp_path: Path) -> None:
    stored = random_lora(llama, seed=1)
    card = stored.card.model_copy(update={"license": "cc-by-sa-4.0", "dataset_license": "CC BY-SA 4.0"})
    start = save_module(replace(stored, card=card), tmp_path / "start")
    short = RECIPE.change(warmup_steps=0, max_steps=1, eval_every=1)
    grown = tune(TASK, llama, start=start, recipe=short).module.card
    assert [(donor.name, donor.tensor_hash, donor.weight) for donor in grown.donors] == [
        (start.name, start.card.tensor_hash, 1.0)
    ]
    assert grown.license == "cc-by-sa-4.0", "share-alike goes on unless the user states another licence"
    assert "CC BY-SA 4.0" in grown.dataset_license
    fresh = tune(TASK, llama, recipe=short).module.card
    assert (fresh.donors, fresh.license) == ((), "")


def test_a_reset_module_is_nobodys(llama: Backbone, tmp_path: Path) -> None:
    start = save_module(random_lora(llama, seed=1), tmp_path / "start")
    again = start.reset(seed=0)
    assert (again.card.tensor_hash, again.card.task, again.card.score) == ("", "", None)
    assert (again.card.rank, again.card.targets) == (start.card.rank, start.card.targets)


def test_longer_tuning_is_advised_where_the_last_state_is_the_best(llama: Backbone) -> None:
    def point(step: int, score: float) -> CurvePoint:
        return CurvePoint(step, train_loss=1.0, dev_loss=1.0 - score, dev_score=score)

    curve = (point(0, 0.2), point(8, 0.5), point(16, 0.6))
    made = random_lora(llama, seed=1)
    assert Tuned(made, curve, curve[2], 1.0).advice == (
        "The best state is the last one that was tested (step 16), so that tuning for longer may do better, from "
        "whatever start: --set max_steps=32, or recipe.change(max_steps=32) in Python."
    )
    assert Tuned(made, curve, curve[1], 1.0).advice == ""
    assert Tuned(made, curve[:1], curve[0], 1.0).advice == "", "nothing was tuned"
