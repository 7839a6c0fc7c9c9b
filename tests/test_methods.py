"""The methods of a comparison: how they are typed, the random control's norms, one rank for all, equal starts."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from headstart.backbones import Backbone
from headstart.blending import Blend
from headstart.blending.ensemble import unscored
from headstart.comparing.compare import compare
from headstart.comparing.comparison import DEFAULT_METHODS as USUAL
from headstart.comparing.comparison import Comparison
from headstart.comparing.methods import METHODS
from headstart.comparing.methods.contract import Draw, Pool
from headstart.comparing.methods.parse import parse_methods
from headstart.comparing.norms import typical_norms
from headstart.errors import MergeError, SettingError
from headstart.indicators import unit as scoring
from headstart.kinds import LoraModule, LoraSettings, Module, fresh_module
from headstart.tasks import Task
from headstart.testing import tiny_backbone
from headstart.tuning import unit as tuning
from headstart.tuning.tune import Lane, tune_lanes
from small_hub import RECIPE, filled, module, write_task

BASE = Blend(indicator="loss", temperature=0.5, space="svd", rank=3)


# ---- as they are typed


@pytest.mark.parametrize(
    ("text", "label", "name", "blend"),
    [
        ("scratch", "scratch", "scratch", None),
        ("control=random", "control", "random", None),
        ("Größe 2.b_c-d=scratch", "Größe 2.b_c-d", "scratch", None),
        ("ensemble", "ensemble", "ensemble", BASE),
        ("average", "average", "average", BASE.change(rule="uniform", temperature=None)),
        ("manual:members=ada,bob", "manual", "manual",
         BASE.change(rule="manual", temperature=None, members=("ada", "bob"))),
        ("best_single:indicator=kl", "best_single", "best_single",
         Blend(rule="best_single", indicator="kl")),
        ("mine=softmax:indicator=loss,temperature=0.1", "mine", "ensemble", BASE.change(temperature=0.1)),
        ("three=softmax:effective=3", "three", "ensemble", BASE.change(temperature=None, effective=3)),
        ("two=top_k:top_k=2", "two", "ensemble", BASE.change(rule="top_k", temperature=None, top_k=2)),
    ],
)  # fmt: skip
def test_a_method_as_it_is_typed(text: str, label: str, name: str, blend: Blend | None) -> None:
    (found,) = parse_methods([text], BASE)
    assert parse_methods(text, BASE) == (found,)
    assert (found.label, found.method.name) == (label, name)
    expected = blend.change(space="parameters", rank=None) if blend is not None and name == "best_single" else blend
    assert found.blend == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "there is no method to compare; name some of: scratch, random, average, manual, best_single, ensemble"),
        (
            ["scrach"],
            r"unknown method 'scrach'; did you mean 'scratch'\? The methods are: scratch, random, .*; or a merge rule",
        ),
        (["scratch:rank=3"], "method 'scratch' blends nothing, so rank is not for it; leave that out, or choose"),
        (["average:rule=softmax"], "method 'average' has the rule 'uniform'; leave rule out, or write the rule in its"),
        (["softmax:rule=top_k"], "method 'softmax:rule=top_k' names two rules; keep one of them"),
        (
            ["ensemble", "ensemble:indicator=kl"],
            "two methods are called 'ensemble'; give one a label of its own",
        ),
        (["average:rank="], "rank='' of a blend: .*; correct it"),
        (["=scratch"], "method '=scratch' has an empty label; write LABEL=NAME, or NAME alone"),
        (
            ["a=b=scratch"],
            "method 'a=b=scratch' has the label 'a=b'; write a label of letters, digits, '_', '-', '.' and ",
        ),
        (["a\nb=scratch"], r"method 'a\\nb=scratch' has the label 'a\\nb'; write a label of letters"),
        (["<b>=scratch"], "has the label '<b>'; write a label of letters, digits, '_', '-', '.' and spaces$"),
        (
            ["manual:members="],
            "^'manual:members=' has members without names; write members=NAME,NAME or leave it out$",
        ),
        (["ensemble:tau=3"], "'ensemble:tau=3' has the unknown field 'tau'; choose one of: rule, indicator"),
    ],
)
def test_methods_that_cannot_be(texts: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_methods(texts, BASE)


def test_the_usual_methods_are_registered() -> None:
    assert set(USUAL) <= set(METHODS)
    assert {name: METHODS[name].name for name in METHODS} == {name: name for name in METHODS}


# ---- the random control


def norms_of(module: Module) -> dict[str, float]:
    """‖ΔW‖ of every layer by full matrices in float64."""
    assert isinstance(module, LoraModule)
    return {path: float((f.scaling * f.b.double() @ f.a.double()).norm()) for path, f in module.factors.items()}


def draw_of(modules: list[Module], backbone: Backbone, *, seed: int = 0, rank: int | None = None) -> Draw:
    task = Task(card=write_card(), splits={})
    return Draw(task, seed, Pool(tuple(modules), backbone, rank), lambda _: unscored(modules, "mean"))


def write_card() -> Any:
    from headstart.records import TaskCard

    return TaskCard(name="t")


@pytest.mark.parametrize("rank", [2, 5])
def test_a_random_lora_has_the_median_norm_of_every_layer(rank: int) -> None:
    backbone = tiny_backbone("llama")
    modules: list[Module] = [module(backbone, f"m{seed}", seed=seed, alpha=seed + 1.0) for seed in range(5)]
    found = METHODS["random"].begin(draw_of(modules, backbone, rank=rank), None).module
    found.check(backbone)
    assert found.card.rank == rank
    naive = [norms_of(one) for one in modules]
    for path, norm in norms_of(found).items():
        assert norm == pytest.approx(median(one[path] for one in naive), rel=1e-5)
        sizes = [float(one.factors[path].a.norm()) for one in modules if isinstance(one, LoraModule)]
        assert float(found.factors[path].a.norm()) == pytest.approx(median(sizes), rel=1e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["ia3", "bitfit", "prefix", "prompt", "adapter"])
def test_a_random_module_of_other_kinds_has_the_median_change_of_every_parameter(kind: str) -> None:
    backbone = tiny_backbone("gpt2")
    modules: list[Module] = []
    for seed in range(3):
        fresh = fresh_module(kind, backbone, {}, name=f"m{seed}", seed=seed)
        generator = torch.Generator().manual_seed(seed)
        moved = {k: v + (seed + 1) * torch.randn(v.shape, generator=generator) for k, v in fresh.parameters().items()}
        modules.append(fresh.with_parameters(moved))
    origin = modules[0].origin(backbone)

    def change(one: Module, name: str) -> float:
        return float((one.parameters()[name].double() - origin[name].double()).norm())

    first, again, other = (
        METHODS["random"].begin(draw_of(modules, backbone, seed=seed), None).module for seed in (0, 0, 1)
    )
    first.check(backbone)
    for name in first.parameters():
        assert change(first, name) == pytest.approx(median(change(one, name) for one in modules), rel=1e-4)
    assert first.digest() == again.digest() != other.digest()


def test_a_random_module_points_nowhere_near_the_hub_s() -> None:
    backbone = tiny_backbone("llama")
    modules: list[Module] = [module(backbone, f"m{seed}", seed=seed) for seed in range(3)]
    found = METHODS["random"].begin(draw_of(modules, backbone, seed=0, rank=2), None).module
    flat = lambda one: torch.cat([value.flatten() for value in one.parameters().values()])  # noqa: E731
    cosines = [torch.cosine_similarity(flat(found), flat(one), 0).abs().item() for one in modules]
    assert max(cosines) < 0.1


def test_norms_of_a_large_hub_are_read_from_some_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.comparing import norms

    monkeypatch.setattr(norms, "MOST", 2)
    modules = [filled({"one": (5, 4, 2)}, seed=seed) for seed in range(5)]
    expected = [norms_of(modules[index])["one"] for index in (0, 3)]
    found = typical_norms(modules, tiny_backbone("llama"))
    assert found["one"][0] == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_norms_are_those_of_the_modules_whose_shape_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.comparing import norms

    monkeypatch.setattr(norms, "MOST", 2)
    # Every second module is of one shape, so that of an even sample none has the commonest.
    shapes = ["rare", "often", "other", "often", "other", "often", "rare"]
    modules: list[Module] = [filled({path: (5, 4, 2)}, seed=seed) for seed, path in enumerate(shapes)]
    found = METHODS["random"].begin(draw_of(modules, tiny_backbone("llama")), None).module
    naive = [norms_of(modules[index])["often"] for index in (1, 5)]
    assert norms_of(found)["often"] == pytest.approx(sum(naive) / 2, rel=1e-5)


# ---- comparisons


@pytest.fixture(scope="module")
def backbone(tiny_llama: Path) -> Backbone:
    return Backbone.load(tiny_llama, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task.load(write_task(tmp_path_factory.mktemp("task") / "task"))


def run(task: Task, modules: list[Module], backbone: Backbone, *methods: str, **settings: Any) -> Comparison:
    recipe = RECIPE.change(max_steps=1, eval_every=1, warmup_steps=0)
    return compare(task, modules, backbone, methods=methods, seeds=1, shots=2, recipe=recipe, **settings)


def test_every_method_begins_at_one_rank_unless_asked_otherwise(task: Task, backbone: Backbone) -> None:
    modules: list[Module] = [
        module(backbone, "ada", seed=1), module(backbone, "bob", seed=2), module(backbone, "cyd", seed=3, rank=3)
    ]  # fmt: skip
    methods = ("scratch", "random", "average", "best_single", "ensemble", "wide=uniform:space=exact,rank=4")
    with pytest.raises(SettingError, match=r"rank 4 is for spaces 'svd', 'core', .* leave it out"):
        run(task, modules, backbone, *methods)
    methods = (*methods[:-1], "sum=uniform:space=exact", "wide=uniform:space=svd,rank=4")
    found = run(task, modules, backbone, *methods)
    ranks = found.starts.set_index("method")["rank"].to_dict()
    assert ranks == {**dict.fromkeys(methods[:5], 3), "sum": 3, "wide": 4}
    same = found.starts.set_index("method")["parameters"]
    assert len(set(same.drop("wide"))) == 1
    assert (found.settings["compared_rank"], found.settings["methods"]) == (3, [*methods[:5], "sum", "wide"])
    own = run(task, modules, backbone, "scratch", "best_single", "sum=uniform:space=exact", equal_rank=False)
    ranks = own.starts.set_index("method")["rank"].to_dict()
    assert (ranks["scratch"], ranks["sum"]) == (2, 2 + 2 + 3)
    assert own.starts.set_index("method")["error"]["sum"] == pytest.approx(0, abs=1e-6)


def test_every_method_tunes_the_same_layers(task: Task, backbone: Backbone) -> None:
    wide = LoraModule.fresh(backbone, LoraSettings(3, 6.0, ("q_proj", "o_proj", "up_proj")), name="wide", seed=5)
    modules: list[Module] = [module(backbone, "ada", seed=1), module(backbone, "bob", seed=2), wide]
    methods = ("scratch", "random", "average", "best_single", "manual:members=ada,bob")
    found = run(task, modules, backbone, *methods)
    assert found.starts["parameters"].nunique() == 1
    assert set(found.starts["rank"]) == {3}
    assert found.settings["compared_layers"] == 8
    assert not [note for note in found.notes if "unequal numbers" in note]
    own = run(task, modules, backbone, "scratch", "average", equal_rank=False)
    assert own.starts["parameters"].nunique() == 2
    assert [note for note in own.notes if "unequal numbers" in note]


def test_two_methods_with_one_start_are_tuned_once_and_it_is_said(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned: list[str] = []

    def counted(lanes: Sequence[Lane], *args: Any, **settings: Any) -> Any:
        tuned.extend(lane.start.digest() for lane in lanes if lane.start is not None)
        return tune_lanes(lanes, *args, **settings)

    monkeypatch.setattr(tuning, "tune_lanes", counted)
    modules: list[Module] = [module(backbone, name, seed=seed) for seed, name in enumerate(("ada", "bob", "cyd"))]
    found = run(task, modules, backbone, "best_single", "sharp=softmax:temperature=1e-9", "average")
    starts = found.starts.set_index("method")
    assert starts["same_as"].to_dict() == {"best_single": "", "sharp": "best_single", "average": ""}
    assert len(tuned) == len(set(tuned)) == 2
    scores = found.scores.set_index(["method", "stage"])["score"]
    assert scores["sharp"].to_dict() == scores["best_single"].to_dict()
    assert [note for note in found.notes if "sharp begins from the very same module as best_single in seed 0" in note]
    assert found.subject == "sharp"


def test_a_comparison_without_any_scores_runs_no_pass(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "score_table", lambda *_, **__: pytest.fail("it scored"))
    modules: list[Module] = [module(backbone, name, seed=seed) for seed, name in enumerate(("ada", "bob"))]
    found = run(task, modules, backbone, "scratch", "average", "mine=manual:members=ada")
    assert found.indicators == ()
    assert list(found.ranking.sort_values("module")["weight"]) == [1.0, 0.0]
    assert found.methods == ("scratch", "average", "mine")
    only = run(task, modules, backbone, "scratch", "random")
    assert only.ranking["weight"].isna().all()
    assert only.subject == "random"


def test_what_a_method_cannot_do_is_refused_before_any_pass(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "score_table", lambda *_, **__: pytest.fail("it scored"))
    mixed: list[Module] = [module(backbone, "thin", seed=1), module(backbone, "thick", seed=2, rank=3)]
    for method in ("average:space=parameters", "mine=top_k:top_k=2,space=dare"):
        with pytest.raises(MergeError, match="merge them with space 'exact' or 'svd', or leave one out"):
            run(task, mixed, backbone, "scratch", method)
    with pytest.raises(SettingError, match=r"temperature 1\.0 is not for rule 'uniform'"):
        run(task, mixed, backbone, "average:temperature=1")


def test_dare_draws_with_the_seed_of_the_run(task: Task, backbone: Backbone) -> None:
    modules: list[Module] = [module(backbone, name, seed=seed) for seed, name in enumerate(("ada", "bob"))]
    recipe = RECIPE.change(max_steps=1, eval_every=1, warmup_steps=0)
    found = compare(task, modules, backbone, methods=("average:space=dare",), seeds=2, shots=2, recipe=recipe)
    assert found.starts["digest"].nunique() == 2


def test_reasons_of_missing_values_are_carried(task: Task, backbone: Backbone) -> None:
    modules: list[Module] = [
        module(backbone, "ada", seed=1), module(backbone, "bob", seed=2), module(backbone, "fat", seed=3, rank=3)
    ]  # fmt: skip
    found = run(task, modules, backbone, "best_single", indicators=("tupate",))
    assert found.missing[["indicator", "module"]].to_numpy().tolist() == [["tupate", "fat"]]
    assert "its embedding has" in found.missing["reason"][0]
    again = Comparison.from_json(found.to_json())
    assert again.missing.equals(found.missing)
