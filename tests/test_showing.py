"""What results look like in a console and in a notebook: one line each, and tables of some rows."""

import inspect
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import headstart as hs
from comparison_example import make_comparison
from fit_example import fit_record
from handmade import write_module
from headstart.backbones import Backbone
from headstart.blending import Blend, merge
from headstart.blending.ensemble import Start, ensemble
from headstart.evaluating.evaluation import Evaluation
from headstart.fitting.verdict import Held, Verdict, decide_start
from headstart.hub import Hub
from headstart.indicators.table import Scores
from headstart.kinds import KINDS, fresh_module, load_module
from headstart.kinds.exporting import merged_weights
from headstart.ranking.rank import Ranking, load_modules, rank
from headstart.records import ModuleCard, TaskCard
from headstart.showing import LONGEST, call_text, html_table, line
from headstart.tasks import Example, Task
from headstart.tasks.inspecting import inspect_task
from headstart.testing import tiny_backbone
from headstart.tuning.tune import tune
from small_hub import RECIPE, module, write_hub, write_task


def small_verdict(*, gain: float = 0.3) -> Verdict:
    """Each of 12 rows has `gain` less loss with the start."""
    rows = [Example(f"film {row}", ("good",)) for row in range(12)]
    losses = {"scratch": 1.0, "random": 1.0, "average": 1.0 - gain}
    held = {name: Held(np.full(12, loss), ("good",) * 12) for name, loss in losses.items()}
    return decide_start(held, rows, metric="ACC")


def test_a_call_is_as_it_would_be_typed() -> None:
    usual = {name: each.default for name, each in inspect.signature(hs.compare).parameters.items()}
    given = {"task": Path("my data") / "é.csv", "hub": "my-hub", "backbone": object(), "store": False}
    assert call_text(hs.compare, usual | given) == 'hs.compare("my data/é.csv", "my-hub", backbone)'
    changed = {
        "seeds": 5,
        "equal_rank": False,
        "methods": ("scratch", "mine=ties"),
        "recipe": RECIPE,
        "blend": [1, RECIPE],
    }
    assert call_text(hs.compare, usual | given | changed) == (
        'hs.compare("my data/é.csv", "my-hub", backbone, methods=["scratch", "mine=ties"], seeds=5, blend=blend, '
        "equal_rank=False, recipe=recipe)"
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, llama: Backbone) -> dict[str, Any]:
    """Everything that a user of Python holds, by what it is called in the checks below."""
    folder = tmp_path_factory.mktemp("shown")
    hub, task = write_hub(folder / "hub", llama), Task.load(write_task(folder / "task"))
    recipe = RECIPE.change(max_steps=2, eval_every=2)
    ranking = rank(task, hub, llama, indicators=("loss", "cosine"), recipe=recipe, store=False)
    start = ensemble(task, hub, llama, ranking=ranking, blend="softmax:indicator=loss", store=False)
    tuned = tune(task, llama, start=start, recipe=recipe, name="reviews", store=False)
    return {
        "module": load_module(hub.folder("dan")), "lazy": load_modules(hub, llama)[0][0], "ref": hub["ada"],
        "stored": hub.read("ada"), "ranking": ranking, "scores": ranking.scores, "hub": hub, "backbone": llama,
        "view": hub.where(family="reviews"), "task": task, "start": start, "merged": start.merged, "tuned": tuned,
        "comparison": make_comparison(), "blend": Blend(), "evaluation": hs.evaluate(hub["ada"], task, llama),
        "inspection": inspect_task(task), "weights": merged_weights(hub["ada"], llama), "record": fit_record(),
        "verdict": small_verdict(), "card": hub["ada"].card, "task card": task.card, "recipe": recipe,
    }  # fmt: skip


REPRS = {
    "module": r"^LoraModule\(dan, lora of rank 2, 448 parameters, tuned on reviews\)$",
    "lazy": r"^LazyModule\(ada, lora of rank 2, 448 parameters\)$",
    "ref": r"^ModuleRef\(ada, lora of rank 2, 448 parameters; in .*hub/ada\)$",
    "stored": r"^StoredModule\(ada, lora of rank 2, 448 parameters; in .*hub/ada\)$",
    "ranking": r"^Ranking\(4 modules by loss, cosine on 12 examples; best: \w+ -?[\d.]+\)$",
    "scores": r"^Scores\(4 modules by loss, cosine; mean over \d+ tokens of 12 examples\)$",
    "hub": r"^Hub\('.*hub'; 4 modules\)$",
    "view": r"^Hub\('.*hub'; 2 modules; only family 'reviews'\)$",
    "backbone": r"^Backbone\('tiny-llama', llama language model, float32 on cpu\)$",
    "task": r"^Task\(reviews: 12 train, 12 dev, 12 test; ACC; 2 labels\)$",
    "start": r"^Start\(reviews-start; softmax by loss at τ = [\d.e-]+, space 'parameters'; weights: \w+ 0\.\d+, .*\)$",
    "merged": r"^Merged\(reviews-start, .*; 4 of 4 modules in space 'parameters'; effective number 2; ΔW error.*\)$",
    "tuned": r"^Tuned\(reviews, lora.* tuned on reviews; dev score [\d.]+ \(loss [\d.]+\) at step \d; \d+ s\)$",
    "comparison": r"^Comparison\(rte by ACC, 3 seeds, 200 test rows; methods: scratch, random, .*, ensemble\)$",
    "blend": r"^Blend\('softmax'\)$",
    "inspection": r"^Inspection\(reviews: 12 train, 12 dev, 12 test; ACC\)$",
    "weights": r"^MergedWeights\(4 tensors; rounded by [\d.e-]+ of the change's norm\)$",
    "record": r"^FitRecord\(reviews; use: tuned from .*; test ACC 0\.86 on 200 rows\)$",
    "verdict": r"^Verdict\(use: average; gain 0\.3 nats a row \([\d.]+ to [\d.]+\); 12 held-out rows in 1 fold\)$",
    "recipe": r"^Recipe\('quick'; lora; lr 0\.001; at most 2 steps of 4 rows\)$",
    "card": r"^ModuleCard\(ada, lora of rank 2, 448 parameters\)$",
    "task card": r"^TaskCard\(reviews; ACC; 2 labels\)$",
    "evaluation": r"^Evaluation\(ACC [\d.]+; loss [\d.]+ nats a row; 12 test rows, options\)$",
}


@pytest.mark.parametrize("name", REPRS)
def test_a_repr_is_one_line(name: str, shown: dict[str, Any]) -> None:
    text = repr(shown[name])
    assert len(text) <= LONGEST
    assert "\n" not in text
    assert re.search(REPRS[name], text), text


@pytest.mark.parametrize("name", REPRS)
def test_comparing_with_itself_and_looking_for_it_in_a_list(name: str, shown: dict[str, Any]) -> None:
    value = shown[name]
    assert (value == value, value in [None, value], value == 3) == (True, True, False)


def test_a_blend_shows_what_parsing_reads() -> None:
    blend = Blend(rule="manual", members=("ada", "bob"), space="svd", rank=4)
    text = repr(blend)
    assert text == "Blend('manual:members=ada,bob,space=svd,rank=4')"
    assert Blend.parse(text.removeprefix("Blend('").removesuffix("')")) == blend


def test_every_kind_of_module_and_backbone_is_one_line() -> None:
    bert = tiny_backbone("bert")
    for kind in ("lora", "bitfit", "prompt", "prefix", "ia3", "adapter"):
        module = fresh_module(kind, bert, {}, name="m" * 300, seed=0)
        assert repr(module).startswith(f"{type(module).__name__}({'m' * 59}…, {kind}")
        assert len(repr(module)) <= LONGEST
        assert type(module) is KINDS[kind] or kind == "prefix"
    assert repr(bert) == "EncoderBackbone('tiny-bert', bert encoder, float32 on cpu)"
    assert repr(tiny_backbone("t5")) == "Backbone('tiny-t5', t5 encoder-decoder, float32 on cpu)"


def test_a_line_is_cut_and_names_stay_in_it() -> None:
    text = line("Name", "a\nb", "x" * 500)
    assert (len(text), text[:14], text[-2:]) == (LONGEST, "Name(a b; xxxx", "…)")


def test_a_card_in_words() -> None:
    card = ModuleCard(name="a\nb", kind="adapter", rank=16, parameters=1, tensor_hash="", task="sst2", variant="")
    assert card.words == "a b, adapter of size 16, 1 parameter, tuned on sst2"
    dora = ModuleCard(name="ada", kind="lora", rank=8, parameters=1200, tensor_hash="", variant="DoRA")
    assert dora.words == "ada, lora (DoRA) of rank 8, 1,200 parameters"


def test_a_task_without_labels_or_rows() -> None:
    task = Task(TaskCard(name="echo"), {"train": (Example("a", ("a",)),)})
    assert repr(task) == "Task(echo: 1 train; EM; open answers)"
    assert repr(Task(TaskCard(name="echo"), {})) == "Task(echo: no rows; EM; open answers)"


def test_a_notebook_shows_tables(shown: dict[str, Any]) -> None:
    ranking, start, hub, comparison = (shown[name]._repr_html_() for name in ("ranking", "start", "hub", "comparison"))
    assert "4 modules by loss, cosine on 12 examples" in ranking
    assert all(f"<td>{name}</td>" in table for name in ("ada", "bob", "cyd", "dan") for table in (ranking, start, hub))
    assert "<th>weight</th>" in start
    assert "<th>variant</th>" in hub
    assert "<th>tuned</th>" in comparison


def test_tables_name_a_variant_that_only_peft_computes(llama: Backbone) -> None:
    plain, dora = module(llama, "ada", seed=1), module(llama, "bob", seed=2, variant="DoRA")
    scores = Scores(("ada", "bob"), {"loss": (-2.0, -1.0)}, "mean", 3, 5)
    ranking = Ranking((plain, dora), scores, (), None)
    start = Start(merge([plain, dora], (1.0, 0.0)), ranking, Blend(rule="uniform"), None)
    facts = ["module", "variant", "task", "family", "license", "loss"]
    for shown, columns in ((ranking, facts), (start, [*facts, "weight"])):
        frame = shown.frame()
        assert list(frame.columns) == columns
        assert dict(zip(frame["module"], frame["variant"], strict=True)) == {"ada": "", "bob": "DoRA"}
        assert "<td>DoRA</td>" in shown._repr_html_()
    assert repr(ranking) == "Ranking(2 modules by loss on 3 examples; best: bob -1)"
    assert "variant" not in ranking.of([0]).frame()


def test_a_notebook_shows_how_well_each_class_is_recognized(shown: dict[str, Any]) -> None:
    rows = [Example("a", (target,), ("bad", "good")) for target in ("bad", "bad", "bad", "good")]
    found = Evaluation("ACC", 0.5, 0.7, ("bad", "good", "(odd)", "good"), "options", examples=tuple(rows))
    table = found._repr_html_()
    assert table.startswith("<p>ACC 0.5000; 4 rows, options</p>")
    # Of the three rows of "bad", one was answered "bad", one "good" and one neither: recall 1/3, precision 1.
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", table)
    assert cells[:10] == ["class", "precision", "recall", "F1", "support", "bad", "1", "0.3333", "0.5", "3"]
    assert cells[15:] == [
        "target", "bad", "good", "(none of them)", "bad", "1", "1", "1", "good", "0", "1", "0"
    ]  # fmt: skip
    opened = Evaluation("EM", 1.0, 0.7, ("<b>",), "generate", losses=(0.7,), examples=(Example("a", ("<b>",)),))
    assert "<td>&lt;b&gt;</td>" in opened._repr_html_()
    assert replace(opened, examples=())._repr_html_() == "<p>EM 1.0000; loss 0.7000 nats a row; 1 row, generate</p>"


def test_a_notebook_shows_a_curve_donors_and_what_is_understood_of_a_task(shown: dict[str, Any]) -> None:
    tuned, merged, inspection = (shown[name]._repr_html_() for name in ("tuned", "merged", "inspection"))
    assert all(f"<th>{name}</th>" in tuned for name in ("step", "train_loss", "dev_loss", "dev_score"))
    assert tuned.count("<tr>") + tuned.count("<tr ") == 1 + len(shown["tuned"].curve)
    assert all(f"<td>{name}</td>" in merged for name in ("ada", "bob", "cyd", "dan"))
    assert all(f"<p>{title}</p>" in inspection for title in ("Splits", "Classes", "Guesses", "Prompts", "Lengths"))
    assert "<p>Columns</p>" not in inspection, "there is nothing to say of them"


def test_what_is_long_in_itself_is_one_line_too(shown: dict[str, Any]) -> None:
    targets = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in range(80))
    card = shown["card"].model_copy(update={"targets": targets})
    assert repr(card) == repr(shown["card"])
    assert repr(small_verdict(gain=0.0)).startswith("Verdict(abstain: scratch; gain 0 nats a row")


def test_a_table_is_cut_and_its_text_escaped() -> None:
    frame = pd.DataFrame({"module": ["<b>"] * 25, "loss": [math.nan] * 25})
    text = html_table(frame, title="a < b")
    assert text.count("&lt;b&gt;") == 20
    assert "<p>a &lt; b</p>" in text
    assert "… and 5 more rows" in text


def test_a_hub_is_a_mapping_from_names_to_modules(tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    write_module(tmp_path / "made" / "paws")
    hub.add(tmp_path / "made" / "paws")
    assert hub["paws"].name == "paws"
    assert ("paws" in hub, "qqp" in hub, 3 in hub, list(hub)) == (True, False, False, ["paws"])
    with pytest.raises(hs.HeadstartError, match=r"has no module 'pawz'; did you mean: paws\?$"):
        hub["pawz"]
    assert hub["paws"].load().digest() == load_module(hub.folder("paws")).digest()


def test_a_hub_as_a_table(shown: dict[str, Any]) -> None:
    frame = shown["hub"].frame()
    assert list(frame["module"]) == ["ada", "bob", "cyd", "dan"]
    assert list(frame.columns[:5]) == ["module", "kind", "variant", "rank", "parameters"]
    assert list(shown["hub"].frame(family="reviews", sort="-name", limit=1)["module"]) == ["bob"]
    assert list(shown["hub"].frame(family="zebras").columns) == list(frame.columns)
    assert (list(frame["rank"]), frame["score"].isna().all()) == ([2, 2, 2, 2], True)


def test_a_hub_that_is_gone_has_a_repr(tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    (tmp_path / "hub").rename(tmp_path / "moved")
    assert repr(hub) == f"Hub('{tmp_path / 'hub'}'; cannot be read now)"


def test_the_package_lists_what_is_public_and_nothing_else() -> None:
    assert dir(hs) == sorted(hs.__all__)
    assert all(getattr(hs, name) is not None for name in dir(hs))
    assert {"Module", "Ranking", "Start", "RECIPES", "METHODS", "Listener", "Example"} <= set(dir(hs))
