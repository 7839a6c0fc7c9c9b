"""A blend from a file of modules and weights: exact sums, and everything else refused by name."""

from pathlib import Path

import pytest
import torch

from headstart.backbones import Backbone
from headstart.blending import Blend, merge
from headstart.blending.ensemble import ensemble
from headstart.blending.given import as_blend, read_recipe_file
from headstart.comparing.methods.parse import parse_methods
from headstart.errors import MergeError, SettingError
from headstart.hub import Hub
from headstart.kinds import load_module, save_module
from headstart.records import TaskCard
from headstart.tasks import Task
from made_by_peft import make
from program import Run, assert_mistake
from small_hub import module, write_hub, write_task

pytest_plugins = ["cli_helper"]
TEXT = "modules: {ada: 0.7, cyd: 0.3}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llama: Backbone, tiny_llama: Path) -> Path:
    """A folder with "hub" (ada, bob, cyd, dan, of rank 2; bea of rank 4; zoe, a DoRA) and "task"."""
    folder = tmp_path_factory.mktemp("recipe-file")
    hub = write_hub(folder / "hub", llama)
    save_module(module(llama, "eve", seed=5, rank=4), folder / "eve")
    hub.add(folder / "eve", name="bea")  # neither the first nor the last of its hub
    hub.add(make(tiny_llama, folder / "zoe", use_dora=True))
    write_task(folder / "task")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "blend.yaml").write_text(TEXT)
    return tmp_path / "blend.yaml"


def test_it_is_the_blend_of_these_weights(file: Path) -> None:
    expected = Blend(rule="manual", members=("ada", "cyd"), weights=(0.7, 0.3))
    assert read_recipe_file(file) == as_blend(file) == as_blend(str(file)) == expected
    assert Blend.parse("manual:members=ada,cyd,weights=0.7,0.3") == expected
    file.write_text("space: svd\nrank: 3\nmodules:\n  ada: 0.5\n  3: 0.5\n")
    assert read_recipe_file(file) == Blend(rule="manual", members=("ada", "3"), weights=(0.5, 0.5), space="svd", rank=3)


def test_thirds_may_be_rounded(file: Path) -> None:
    file.write_text("modules: {a: 0.3333333, b: 0.3333333, c: 0.3333333}")
    assert sum(read_recipe_file(file).weights) == pytest.approx(1, abs=1e-15)


def test_names_are_texts_as_they_are_written(file: Path) -> None:
    file.write_text("modules: {no: 0.25, 1.10: 0.25, 007: 0.25, null: 0.25}")
    assert read_recipe_file(file).members == ("no", "1.10", "007", "null")


def test_small_weights_may_be_written_as_programs_write_them(file: Path) -> None:
    file.write_text("modules: {a: 1e-3, b: 9.99e-1}")
    assert read_recipe_file(file).weights == (0.001, 0.999)


GROWING = "\n".join(f"k{n}: &z{n} [{', '.join([f'*z{n - 1}'] * 10)}]" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modules: {a: 2020-99-99}", "month must be in 1..12"),
        (f"modules: {{a: {'9' * 5000}}}", "a value has more than 1,000 characters"),
        ("modules: {a: !!int x}", "invalid literal"),
        ("modules: {a: !!bool x}", "'x'"),
        ("modules: {a: !!timestamp x}", "groupdict"),
        ("modules: {a: !!int ''}", "index out of range"),
        (f"k0: &z0 [x]\n{GROWING}\n? *z11\n: 1\n", "it has an alias, a value that begins with *"),
        ("modules: {[a]: 1.0}", "a key is not a text"),
    ],
)
def test_hostile_files_are_refused_by_name(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingError) as caught:
        read_recipe_file(file)
    assert str(caught.value).startswith(f"{file} is not a YAML file (")
    assert said in str(caught.value)
    assert str(caught.value).endswith("; write modules: {paws: 0.7, qqp: 0.3}")


def test_the_start_is_that_sum_without_a_pass(folder: Path, file: Path, llama: Backbone) -> None:
    hub = Hub.open(folder / "hub")
    rowless = Task(TaskCard(name="new"), {})
    start = ensemble(rowless, hub, llama, blend=file, store=False)
    assert dict(zip(start.ranking.scores.names, start.merged.weights, strict=True)) == {
        "ada": 0.7, "bea": 0.0, "bob": 0.0, "cyd": 0.3, "dan": 0.0, "zoe": 0.0,
    }  # fmt: skip
    direct = merge([load_module(hub["ada"]), load_module(hub["cyd"])], [0.7, 0.3])
    for name, value in start.module.parameters().items():
        assert torch.allclose(value, direct.module.parameters()[name], atol=1e-6)
    assert [(donor.name, donor.weight) for donor in start.module.card.donors] == [("ada", 0.7), ("cyd", 0.3)]
    assert [refused.name for refused in start.left_out] == ["zoe"]


REFUSED = {
    "": "holds no keys; write modules: {paws: 0.7, qqp: 0.3}",
    "- ada": "holds no keys; write modules: {paws: 0.7, qqp: 0.3}",
    "modules: {ada: 0.7": "is not a YAML file",
    "modules: {ada: !!python/name:os.system 1}": "is not a YAML file",
    "modules: {ada: 0.5, bob: 0.5, ada: 0.5}": "'ada' stands there twice",
    "modlues: {ada: 1}": "blend.yaml: unknown key 'modlues'; did you mean 'modules'?",
    "modules: {ada: 1}\nzebra: 1": "unknown key 'zebra'; it may have: modules, space, rank, density",
    "space: svd": "it names no modules; write modules: {paws: 0.7, qqp: 0.3}",
    "modules: [ada, bob]": "it names no modules; write modules: {paws: 0.7, qqp: 0.3}",
    "modules: {ada: 0.7, bob: 0.2}": "the weights sum to 0.9; make them sum to 1",
    "modules: {ada: 1.5, bob: -0.5}": "the weight of 'ada' is 1.5; give a number above 0 and at most 1",
    "modules: {ada: 1, bob: 0}": "the weight of 'bob' is 0; give a number above 0 and at most 1",
    "modules: {ada: .nan}": "the weight of 'ada' is nan; give a number above 0 and at most 1",
    "modules: {ada: yes}": "the weight of 'ada' is True; give a number above 0 and at most 1",
    "modules: {ada: 1}\nrank: many": "blend.yaml: rank='many' of a blend",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_recipe(text: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(SettingError) as caught:
        read_recipe_file(file)
    assert REFUSED[text] in str(caught.value)


def test_a_file_that_is_missing_or_too_large(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SettingError, match=r"cannot read the recipe file .*gone\.yaml: No such file .*; check the path$"
    ):
        as_blend(str(file.with_name("gone.yaml")))
    monkeypatch.setattr("headstart.blending.given.LARGEST_FILE", 8)
    with pytest.raises(SettingError, match=r"is larger than 8 bytes"):
        read_recipe_file(file)


def test_weights_go_with_members(folder: Path, llama: Backbone, file: Path) -> None:
    hub, task = Hub.open(folder / "hub"), Task(TaskCard(name="new", family="reviews"), {})
    with pytest.raises(
        SettingError, match=r"^1 weights are given for 0 members; name the members, each with one weight"
    ):
        ensemble(task, hub, llama, blend=Blend(rule="manual", weights=(1.0,)), store=False)
    with pytest.raises(SettingError, match=r"^weights 0\.5, 0\.5 is not for rule 'softmax'"):
        ensemble(task, hub, llama, blend=Blend(weights=(0.5, 0.5)), store=False)
    for name, said in (
        ("adda", r"^'adda' is no module that can take part; did you mean 'ada'\?$"),
        ("zoe", r"^'zoe' is a LoRA variant \(DoRA\) whose parameters have no exact merge with others; leave it out$"),
    ):
        file.write_text(f"modules: {{{name}: 1}}" if name == "adda" else "modules: {ada: 0.5, zoe: 0.5}")
        with pytest.raises(MergeError, match=said):
            ensemble(task, hub, llama, blend=file, store=False)


def test_other_methods_of_a_comparison_leave_the_weights_to_manual(file: Path) -> None:
    found = {one.label: one.blend for one in parse_methods(("manual", "average", "top_k:top_k=2"), as_blend(file))}
    assert {label: blend.weights for label, blend in found.items() if blend} == {
        "manual": (0.7, 0.3), "average": (), "top_k": (),
    }  # fmt: skip


def test_on_the_command_line(run: Run, folder: Path, tiny_llama: Path, file: Path, tmp_path: Path) -> None:
    common = [str(folder / "task"), "--hub", str(folder / "hub"), "-b", str(tiny_llama), "--recipe-file", str(file)]
    done = run("ensemble", *common, "-o", str(tmp_path / "start"), "--json").data
    assert [(donor["name"], donor["weight"]) for donor in done["card"]["donors"]] == [("ada", 0.7), ("cyd", 0.3)]
    assert (done["rule"], done["indicator"]) == ("manual", None)
    # A DoRA takes no part, and is named with the reason.
    assert [(one["name"], "DoRA" in one["reason"]) for one in done["refused"]] == [("zoe", True)]
    assert_mistake(
        run("ensemble", *common, "-o", str(tmp_path / "other"), "--top-k", "2"),
        "--recipe-file says how the modules are blended; leave out it or --top-k",
    )


def test_a_variant_is_shown_and_named_in_text(run: Run, folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    common = [str(folder / "task"), "--hub", str(folder / "hub"), "-b", str(tiny_llama)]
    ended = run("ensemble", *common, "--rule", "uniform", "-o", str(tmp_path / "start"))
    assert "takes no part: zoe: a LoRA variant (DoRA), which can be ranked but not merged" in ended.err
    ranked = run("rank", *common, "-i", "loss", "--json").data
    assert {one["module"]: one["variant"] for one in ranked["modules"]}["zoe"] == "DoRA"
    assert "DoRA" in run("hub", "list", str(folder / "hub")).out
    assert "DoRA" in run("hub", "show", str(folder / "hub"), "zoe").out


def test_unequal_shapes_are_refused_before_any_pass_and_excluding_one_helps(
    run: Run, folder: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.ranking.scorer.run", lambda *_, **__: pytest.fail("the hub was scored"))
    common = [str(folder / "task"), "--hub", str(folder / "hub"), "-b", str(tiny_llama), "--space", "parameters"]
    ended = run("ensemble", *common, "-o", str(tmp_path / "start"))
    assert_mistake(
        ended,
        "'bea'",
        "merge them with space 'exact' or 'svd', or leave one out (--exclude bea, or Hub.where(exclude=…))",
    )
    done = run("ensemble", *common, "--exclude", "bea", "--rule", "uniform", "-o", str(tmp_path / "start"), "--json")
    assert len(done.data["card"]["donors"]) == 4
    assert_mistake(run("ensemble", *common, "--exclude", "beaa", "-o", str(tmp_path / "other")), "did you mean: bea?")
