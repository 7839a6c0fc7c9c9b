"""A dry run says what would be computed, and computes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from encoders import encoder
from headstart.backbones import Backbone
from headstart.backbones.encoding import TextFormat
from headstart.backbones.load import load_of, tokens_of
from headstart.cli.narrowing import spent_note
from headstart.hub import Hub
from headstart.hub.vectors import VECTORS_FILE
from headstart.indicators import make_indicator
from headstart.ranking.rank import load_modules, rank
from headstart.ranking.scorer import passes
from headstart.tasks import Example, Task
from headstart.units import Store, foresee
from headstart.units import run as run_units
from headstart.units.forecast import DRY_RUN, SPEEDS, Expected, Forecast, PlannedOnly
from program import QUICK, Run, assert_mistake
from small_hub import RECIPE
from toy_units import Square, Total

pytest_plugins = ["cli_helper", "small_road"]


class TestForecast:
    def test_only_what_is_missing_is_counted(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        one, two = Square(1), Square(2)
        run_units([one], store=store)
        both = Total((one, two))

        def call(engine: str, progress: Any) -> None:
            run_units([both], store=store, engine=engine, listener=progress)

        found = {each.type: (each.compute, each.stored) for each in foresee(call).expected}
        assert found == {Total.type: (1, 0), Square.type: (1, 1)}
        assert store.get(two) is None, "nothing was computed"
        run_units([both], store=store)
        assert {each.type: (each.compute, each.stored) for each in foresee(call).expected} == {Total.type: (0, 1)}

    def test_a_dry_run_that_nobody_foresees_is_an_error_that_says_how(self, tmp_path: Path) -> None:
        with pytest.raises(PlannedOnly, match=r"'dry-run' computes nothing; use headstart\.units\.foresee, or"):
            run_units([Square(1)], store=Store(tmp_path), engine=DRY_RUN)

    def test_times_add_up_and_say_what_they_are_from(self) -> None:
        found = Forecast((Expected("tune", 2, 0, 100, (10, 20), 3), Expected("score", 5, 1, 50, (1, 4), later=True)))
        assert (found.tokens, found.seconds) == (150, (11, 24))
        assert found.basis == (
            "3 earlier results of these types on this backbone and device; nothing measured yet for score: 10 to 100 "
            "billion operations a second are assumed on cpu"
        )
        assert Forecast((Expected("learn", 1),)).basis == "without learn, whose time is not known beforehand"
        assert Forecast((Expected("learn", 0, 1),)).basis == "nothing has to be computed"
        data = json.loads(json.dumps(found.to_json()))
        assert data["minutes"] == [11 / 60, 24 / 60]
        assert [each["later"] for each in data["units"]] == [False, True]

    def test_earlier_results_of_this_backbone_say_how_long_it_takes(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        run_units([Square(1), Square(2)], store=store)

        def call(engine: str, progress: Any) -> None:
            run_units([Square(3), Square(4)], store=store, engine=engine, listener=progress)

        (expected,) = foresee(call).expected
        assert (expected.measured, expected.compute) == (2, 2)
        assert 0 < expected.seconds[0] < expected.seconds[1]


class TestLoad:
    def test_tokens_by_hand(self, llama: Backbone) -> None:
        count = lambda text: len(llama.tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
        row = Example("one two three four", ("yes",), ("yes", "no way"))
        whole = TextFormat(max_input=64, max_target=8)
        assert tokens_of([row, row], llama, whole) == 2 * (count(row.input) + count("yes"))
        assert tokens_of([row], llama, whole, options=True) == count(row.input) + count("yes") + count("no way")
        assert tokens_of([row], llama, TextFormat(max_input=2, max_target=1)) == 3
        assert tokens_of([], llama, whole) == 0

    def test_operations_by_hand(self, llama: Backbone) -> None:
        # forward: a multiplication and an addition for each parameter and token; backward as many for activations
        parameters = sum(parameter.numel() for parameter in llama.model.parameters())
        load = load_of(llama, forward=10, both=5)
        assert (load.tokens, load.operations, load.device) == (15, parameters * (2 * 15 + 2 * 5), "cpu")
        assert load.device in SPEEDS

    @pytest.mark.parametrize("family", ["llama", "t5", "bert"])
    def test_a_short_pass_says_how_fast_the_device_is(self, family: str, request: pytest.FixtureRequest) -> None:
        backbone = encoder(family) if family == "bert" else request.getfixturevalue(family)
        measure = load_of(backbone, forward=1).speed
        assert measure is not None
        found = measure()
        assert 1e5 < found < 1e15
        assert measure() == found, "it is measured once"

    def test_what_only_compares_parameters_reads_nothing(self, task: Task, hub: Hub, llama: Backbone) -> None:
        modules, _ = load_modules(hub, llama)

        def tokens(*indicators: str) -> int:
            planned = foresee(
                lambda **more: rank(
                    task, modules, llama, indicators=indicators, reference=modules[0], store=False, **more
                )
            )
            return planned.tokens

        assert tokens("weight_cosine", "similarity:embedding=gram") == 0
        assert tokens("loss", "weight_cosine") == tokens("loss") > 0
        assert passes([make_indicator("similarity"), make_indicator("weight_cosine")], 4) == 0
        assert passes([make_indicator("similarity"), make_indicator("loss"), make_indicator("arrow")], 4) == 5

    def test_tunings_of_every_module_count(self, task: Task, hub: Hub, llama: Backbone) -> None:
        how: dict[str, Any] = {"indicators": "performance:m=2", "recipe": RECIPE, "store": False}
        spent = rank(task, hub, llama, race=False, retrieve=2, **how).tokens
        assert spent is not None
        assert 0 < spent.computed - spent.full / 2 < spent.computed, "two of four are tuned, and the reference module"
        reference = hub["ada"].load()
        compared = rank(task, hub, llama, indicators="weight_cosine", retrieve=2, reference=reference, store=False)
        assert spent_note(compared) == "The backbone reads 0 tokens for this."

    def test_what_follows_is_estimated_part_by_part(self, tmp_path: Path) -> None:
        with pytest.raises(PlannedOnly) as dry:
            run_units([Square(1)], store=Store(tmp_path), engine=DRY_RUN)
        later = dry.value.followed_by({"square": (3, [Square(2)])}, {"square": (4, ()), "total": (1, ())})
        found = {each.type: each.compute for each in later.forecast.expected if each.later}
        assert found == {"square": 7, "total": 1}

    def test_seconds_of_a_comparison_of_parameters_tell_nothing_about_passes(
        self, task: Task, hub: Hub, llama: Backbone, tmp_path: Path
    ) -> None:
        store = Store(tmp_path)
        rank(task, hub, llama, indicators="weight_cosine", reference=hub["ada"].load(), store=store)
        (by_loss,) = foresee(lambda **more: rank(task, hub, llama, indicators="loss", store=store, **more)).expected
        assert (by_loss.compute, by_loss.measured) == (4, 0)
        rank(task, hub, llama, indicators="loss", store=store)
        (by_cosine,) = foresee(lambda **more: rank(task, hub, llama, indicators="cosine", store=store, **more)).expected
        assert by_cosine.measured == 4, "the four by loss"


EXPECTED = {
    "rank": {("score", False): 5},
    "ensemble": {("score", False): 4, ("merge", True): 1},
    "tune": {("tune", False): 1},
    "search": {("tune", False): 1, ("embed", False): 5},
    "compare": {("score", False): 12, ("merge", True): 9, ("tune", True): 15},
}
"""Units by type and whether they come later: 4 modules; in compare 3 seeds, 5 methods, of which 3 blend."""


def command_of(name: str, here: dict[str, list[str]], output: Path) -> list[str]:
    hub = [] if name == "tune" else here["hub"]
    out = [] if name in ("rank", "search") else ["-o", str(output)]
    recipe = QUICK if name == "tune" else [*QUICK[:-4], *(("--shots", "4") if name == "compare" else ())]
    return [name, *here["task"], *hub, *here["on"], *recipe, *out, "--store", str(output.parent / "store")]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_dry_run_of_every_command(name: str, run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    words = command_of(name, here, tmp_path / "out")
    ended = run(*words, "--dry-run")
    assert ended.code == 0, ended.err
    assert "This was a dry run: nothing was computed or written." in ended.out
    assert "a short pass on cpu did " in ended.out
    assert "billion operations a second" in ended.out
    assert "About under" not in ended.out
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "store").glob("*/*/*/unit.json"))
    data = run(*words, "--dry-run", "--json").data
    units = {(each["type"], each["later"]): each for each in data["units"]}
    assert all(each["at_most"] == each["later"] for each in data["units"])
    counts = {key: each["compute"] for key, each in units.items() if key[0] != "evaluate"}
    assert counts == EXPECTED[name]
    if name == "compare":  # test, dev and train rows, before and after tuning, of 15 starts; and the bare backbone
        assert units["evaluate", True]["compute"] == 6 * 15 + 3
    assert ("Later: what these units begin from" in ended.out) == (name in ("ensemble", "compare"))
    assert data["tokens"] > 0
    assert 0 < data["minutes"][0] < data["minutes"][1]


def test_a_search_that_was_made_computes_and_writes_nothing(
    run: Run, here: dict[str, list[str]], tmp_path: Path
) -> None:
    words = command_of("search", {**here, "hub": ["--hub", str(tmp_path / "hub")]}, tmp_path / "out")
    Hub.create(tmp_path / "hub").add_all(sorted((Path(here["task"][0]).parent / "made").iterdir()))
    assert run(*words).code == 0
    (tmp_path / "hub" / VECTORS_FILE).unlink()
    data = run(*words, "--index", "lancedb", "--dry-run", "--json").data
    assert {each["type"]: (each["compute"], each["stored"]) for each in data["units"]} == {"embed": (0, 5)}
    assert not (tmp_path / "hub" / VECTORS_FILE).exists()
    assert not (tmp_path / "hub" / ".vectors.lance").exists()


def test_after_a_run_the_store_has_it_all(run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    words = command_of("rank", here, tmp_path / "out")
    assert run(*words).code == 0
    data = run(*words, "--dry-run", "--json").data
    assert {each["type"]: (each["compute"], each["stored"]) for each in data["units"]} == {"score": (0, 5)}
    assert data["minutes"] == [0, 0]
    more = {each["type"]: each for each in run(*words, "-i", "kl,cosine", "--dry-run", "--json").data["units"]}
    assert (more["score"]["compute"], more["score"]["stored"], more["score"]["measured"]) == (4, 5, 5)
    assert (more["tune"]["compute"], more["tune"]["later"]) == (1, False), "the reference module's key is known"


@pytest.mark.parametrize("name", ["compare", "ensemble", "fit", "tune"])
def test_only_a_dry_run_does_without_a_folder(name: str, run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    words = command_of(name, here, tmp_path / "out")
    words = [word for word in words if word not in ("-o", str(tmp_path / "out"))]
    assert_mistake(
        run(*words), "no folder to write is named; add -o FOLDER, or --dry-run to see what would be computed"
    )
    assert "This was a dry run: nothing was computed or written." in run(*words, "--dry-run").out


def test_a_dry_run_finds_mistakes(run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    words = command_of("compare", here, tmp_path / "out")
    assert_mistake(run(*words, "--dry-run", "--seeds", "0"), "seeds 0 must be at least 1")
