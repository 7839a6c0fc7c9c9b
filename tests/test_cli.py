import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import headstart
from headstart.backbones import Backbone
from headstart.comparing.comparison import DEFAULT_METHODS, Comparison
from headstart.kinds import load_module, save_module
from program import FROM_START, NAMES, QUICK, Run, assert_mistake
from small_hub import misfit, module, snapshot

pytest_plugins = ["cli_helper"]


def test_a_hub_from_add_to_remove(run: Run, room: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    added = run("hub", "add", hub, *(room / "made" / name for name in NAMES), "--json")
    assert added.code == 0
    assert [(row["module"], row["result"], row["reason"]) for row in added.data] == [
        (name, "accepted", None) for name in NAMES
    ]
    cards = run("hub", "list", hub, "--json").data
    assert [card["name"] for card in cards] == NAMES
    assert cards[0]["license"] == "mit"
    assert run("hub", "show", hub, "bob", "--json").data == cards[1]
    assert run("hub", "check", hub, "--json").data == {"modules": 4, "problems": []}
    assert run("hub", "remove", hub, "bob", "bob", "dan", "--json").data == {"removed": ["bob", "dan"], "left": 2}
    assert sorted(path.name for path in hub.iterdir() if not path.name.startswith(".")) == ["ada", "cyd"]


def test_the_hub_commands_print_tables(run: Run, room: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    added = run("hub", "add", hub, *(room / "made" / name for name in NAMES[:2]))
    assert (added.code, added.out.count("accepted")) == (0, 2)
    head, _, ada, bob = [line.split() for line in run("hub", "list", hub).out.splitlines() if line.strip()]
    assert head == ["name", "kind", "rank", "parameters", "family"], "what no card says has no column"
    assert added.out.endswith(f"{hub} has 2 modules.\n")
    # 2 layers, each with q_proj (32→32) and v_proj (32→16) at rank 2: 2·(2·(32 + 32) + 2·(32 + 16)).
    assert (ada, bob) == (["ada", "lora", "2", "448", "reviews"], ["bob", "lora", "2", "448", "reviews"])
    shown = run("hub", "show", hub, "ada").out
    assert "tiny-llama (LlamaForCausalLM, weights" in shown
    assert "model.layers.0.self_attn.q_proj" in shown
    assert run("hub", "check", hub).out == "All 2 modules are as catalogued.\n"
    assert run("hub", "remove", hub, "ada").out == "Removed ada; 1 module is left.\n"


def test_hub_add_refuses_row_by_row(run: Run, room: Path, tmp_path: Path) -> None:
    other = shutil.copytree(room / "made" / "bob", tmp_path / "elsewhere" / "ada")
    again = run("hub", "add", tmp_path / "hub", room / "made" / "ada", other, room / "none", "--json")
    assert again.code == 1
    assert [row["result"] for row in again.data] == ["accepted", "refused", "refused"]
    assert "already has a module 'ada'" in again.data[1]["reason"]
    assert "none is not a folder" in again.data[2]["reason"]


def test_hub_check_and_list_tell_of_a_broken_module(run: Run, room: Path, tmp_path: Path) -> None:
    run("hub", "add", tmp_path / "hub", room / "made" / "ada", room / "made" / "bob")
    (tmp_path / "hub" / "ada" / "adapter_model.safetensors").write_bytes(b"")
    checked = run("hub", "check", tmp_path / "hub", "--json")
    assert (checked.code, checked.data["modules"]) == (1, 1)
    assert checked.data["problems"][0]["module"] == "ada"
    table = run("hub", "check", tmp_path / "hub")
    assert (table.code, "adapter_model.safetensors" in table.out) == (1, True)
    rest = run("hub", "check", tmp_path / "hub", "--exclude", "ada")
    assert (rest.code, rest.out) == (0, "Every module is as catalogued.\n")
    listed = run("hub", "list", tmp_path / "hub")
    assert (listed.code, "ada" in listed.out) == (0, False)
    assert listed.err == "1 more cannot be used; see headstart hub check\n"
    assert_mistake(run("hub", "show", tmp_path / "hub", "ada"), "module 'ada' of the hub", "cannot be used")


def test_hub_remove_by_pattern(run: Run, room: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    run("hub", "add", hub, *(room / "made" / name for name in NAMES))  # ada, bob, cyd and dan
    (hub / "bob" / "adapter_model.safetensors").write_bytes(b"")
    assert run("hub", "check", hub).code == 1
    before = snapshot(hub)
    chosen = ["--include", "*b*", "--include", "[c-d]*", "--exclude", "dan"]
    assert run("hub", "remove", hub, *chosen, "--dry-run").out == ("Would remove bob, cyd; 2 modules would be left.\n")
    assert run("hub", "remove", hub, "ada", "--dry-run", "--json").data == {
        "removed": ["ada"], "left": 2, "dry_run": True,
    }  # fmt: skip
    assert_mistake(run("hub", "remove", hub, "eve", "--dry-run"), "has no module 'eve'; nothing was removed")
    assert_mistake(run("hub", "remove", hub, "ada", "--exclude", "dan"), "leave out one of the two")
    assert_mistake(run("hub", "remove", hub, "--exclude", "dan"), "if that is meant, add --include '*'")
    assert_mistake(run("hub", "remove", hub), "name modules, or give --include 'PATTERN'")
    assert_mistake(run("hub", "remove", hub, "--include", "z*"), "has no module 'z*'")
    assert snapshot(hub) == before
    assert run("hub", "remove", hub, *chosen).out == "Removed bob, cyd; 2 modules are left.\n"
    assert run("hub", "list", hub, "--json").data == [
        run("hub", "show", hub, name, "--json").data for name in NAMES[::3]
    ]


def test_hub_mistakes(run: Run, room: Path, tmp_path: Path) -> None:
    assert_mistake(run("hub", "list", tmp_path / "none"), "there is no hub at", "make one with `headstart hub add`")
    (tmp_path / "modules").mkdir()
    (tmp_path / "tickets.csv").touch()
    assert_mistake(run("hub", "list", tmp_path / "module"), f"(did you mean {tmp_path / 'modules'}?); make one with")
    assert_mistake(run("task", tmp_path / "ticket.csv"), f"(did you mean {tmp_path / 'tickets.csv'}?); give a file")
    assert_mistake(run("hub", "show", room / "hub", "adda"), "has no module 'adda'; did you mean: ada")
    before = snapshot(room / "hub")
    assert_mistake(run("hub", "remove", room / "hub", "ada", "eve"), "has no module 'eve'; nothing was removed")
    assert snapshot(room / "hub") == before
    assert run("hub", "list").code == 2
    assert run("hub", "lst").code == 2


def test_names_with_brackets_are_printed_as_they_are(
    run: Run, here: dict[str, list[str]], room: Path, llama: Backbone, tmp_path: Path
) -> None:
    save_module(module(llama, "[bold]x[/y]", seed=5), tmp_path / "[bold]x[-y]")
    hub = tmp_path / "[hub]"
    assert run("hub", "add", hub, tmp_path / "[bold]x[-y]").code == 0
    assert "[bold]x[-y]" in run("hub", "list", hub).out
    assert_mistake(run("hub", "show", hub, r"\[z]"), r"has no module '\[z]'")
    made = run("ensemble", *here["task"], "--hub", hub, *here["on"], *QUICK, "-o", tmp_path / "[b]out")
    assert made.out.rstrip().endswith(f"Saved {tmp_path / '[b]out'}.")
    assert_mistake(run("rank", tmp_path / "[/b]", *here["hub"], *here["on"]), "[/b]")


HOSTILE = "\x1b]0;pwned\x07\x1b[31mred\x9b31m\u202eback\x1b]8;;https://example.org\x1b\\link"


def test_nothing_from_a_card_is_obeyed_by_the_terminal(
    run: Run, here: dict[str, list[str]], llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        card = {"family": HOSTILE, "notes": HOSTILE, "task": HOSTILE, "license": HOSTILE}
        save_module(module(llama, f"m{number}", seed=number), tmp_path / f"m{number}")
        path = tmp_path / f"m{number}" / "headstart.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | card))
    hub = ["--hub", tmp_path / "hub"]
    run("hub", "add", tmp_path / "hub", tmp_path / "m0", tmp_path / "m1")
    task = [*here["task"], *hub, *here["on"], *QUICK]
    looking = [
        ("hub", "list", tmp_path / "hub"),
        ("hub", "show", tmp_path / "hub", "m0"),
        ("rank", *task, "-i", "loss"),
    ]
    ended = [
        run(*words) for words in (*looking, ("compare", *task, "--seeds", 1, "--shots", 3, "-o", tmp_path / "report"))
    ]
    ended += (as_json := [run(*words, "--json") for words in looking])
    assert [run.err for run in ended if run.code] == []
    assert not {letter for run in ended for letter in run.out + run.err} & {"\x1b", "\x9b", "\x07", "\u202e"}
    assert json.loads(as_json[1].out)["family"] == HOSTILE, "as JSON it is what it was"


def test_rank(run: Run, here: dict[str, list[str]], llama: Backbone) -> None:
    command = ["rank", *here["task"], *here["hub"], *here["on"], *QUICK, "-i", "cosine,tupate"]
    data = run(*command, "--json").data
    assert (data["task"], data["examples"], data["reduction"], data["refused"]) == ("reviews", 12, "mean", [])
    found = [row["cosine"] for row in data["modules"]]
    assert found == sorted(found, reverse=True)
    assert all(-1 <= row["tupate"] <= 1 for row in data["modules"])
    ended = run(*command)
    # Each target is one word and the end of the sequence.
    assert "reviews: 4 modules on 12 dev rows, mean over 24 target tokens" in " ".join(ended.out.split())
    assert all(name in ended.out for name in (*NAMES, "cosine", "tupate"))
    fewer = run(*command, "--rows", "5", "--shots", "4", "--json").data
    assert fewer["examples"] == 5


def test_rank_says_what_it_could_not_rank(
    run: Run, here: dict[str, list[str]], room: Path, llama: Backbone, tmp_path: Path
) -> None:
    save_module(misfit(llama, "eve"), tmp_path / "eve")
    save_module(module(llama, "fat", seed=6, rank=3), tmp_path / "fat")
    hub = tmp_path / "hub"
    run("hub", "add", hub, room / "made" / "ada", room / "made" / "bob", tmp_path / "eve", tmp_path / "fat")
    command = ["rank", *here["task"], "--hub", hub, *here["on"], *QUICK, "-i", "tupate"]
    ended = run(*command)
    assert "refused eve: " in ended.err
    assert "no tupate of fat: its embedding has" in ended.err
    data = run(*command, "--json").data
    assert [row["name"] for row in data["refused"]] == ["eve"]
    assert data["modules"][-1]["module"] == "fat"
    assert data["modules"][-1]["tupate"] is None
    assert set(data["reasons"]["tupate"]) == {"fat"}


def test_ensemble(run: Run, here: dict[str, list[str]], llama: Backbone, tmp_path: Path) -> None:
    command = ["ensemble", *here["task"], *here["hub"], *here["on"], *QUICK, "--temperature", "0.5"]
    data = run(*command, "-o", tmp_path / "one", "--json").data
    assert [donor["name"] for donor in data["card"]["donors"]] == NAMES
    assert sum(donor["weight"] for donor in data["card"]["donors"]) == pytest.approx(1)
    assert (data["indicator"], data["temperature"], data["space"]) == ("cosine", 0.5, "parameters")
    assert data["card"]["name"] == "one"
    assert data["units"] == {"computed": {"score": 4, "merge": 1}, "reused": {}}
    again = run(*command, "-o", tmp_path / "again", "--json").data
    assert again["units"] == {"computed": {}, "reused": {"score": 4, "merge": 1}}
    assert load_module(tmp_path / "again").digest() == load_module(tmp_path / "one").digest()
    saved = load_module(tmp_path / "one")
    saved.check(llama)
    assert saved.card.model_dump(mode="json") == data["card"]
    table = run(*command, "-o", tmp_path / "two", "--space", "svd", "--rank", "3", "--top-k", "2")
    assert "effective number of modules 2.00 of 4, space 'svd'" in table.out
    assert "what the start is made of; 2 have no weight" in " ".join(table.out.split())
    assert table.out.rstrip().endswith(f"Saved {tmp_path / 'two'}.")
    assert load_module(tmp_path / "two").card.rank == 3
    table = run(*command, "-o", tmp_path / "three", "--top-k", "3")
    assert "what the start is made of; 1 has no weight" in " ".join(table.out.split())
    assert len(load_module(tmp_path / "two").card.donors) == 2


def test_ensemble_by_hand(run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    command = [
        "ensemble",
        *here["task"],
        *here["hub"],
        *here["on"],
        "--rule",
        "manual",
        "--member",
        "ada",
        "--member",
        "cyd",
    ]
    data = run(*command, "-o", tmp_path / "one", "--space", "svd", "--json").data
    assert {donor["name"]: donor["weight"] for donor in data["card"]["donors"]} == {"ada": 0.5, "cyd": 0.5}
    assert (data["rule"], data["indicator"], data["temperature"]) == ("manual", None, None)
    assert data["card"]["merge_error"] == data["error"] > 0.01
    table = run(*command, "-o", tmp_path / "two")
    assert "manual: effective number of modules 2.00 of 4, space 'parameters', ΔW error " in table.out
    assert load_module(tmp_path / "two").card.merge_error == pytest.approx(
        float(table.out.split("ΔW error ")[1].split()[0].rstrip(".")), rel=1e-2
    )


def test_tune_from_nothing_and_from_a_start(
    run: Run, here: dict[str, list[str]], room: Path, llama: Backbone, tmp_path: Path
) -> None:
    command = ["tune", *here["task"], *here["on"], *QUICK]
    data = run(*command, "-o", tmp_path / "one", "--license", "mit", "--json").data
    assert [point["step"] for point in data["curve"]] == [0, 2, 4]
    assert data["curve"][0]["train_loss"] is None
    assert (data["module"]["license"], data["module"]["rank"], data["module"]["task"]) == ("mit", 2, "reviews")
    command = ["tune", *here["task"], *here["on"], *FROM_START]
    table = run(*command, "--start", room / "made" / "ada", "-o", tmp_path / "two", "--train-rows", "5", "--name", "n")
    assert "Tuning on reviews" in table.out
    assert f"Saved {tmp_path / 'two'}: dev ACC " in table.out
    assert (load_module(tmp_path / "two").card.name, load_module(tmp_path / "two").card.train_rows) == ("n", 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_compare(run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    command = ["compare", *here["task"], *here["hub"], *here["on"], *QUICK, "--seeds", "2", "--shots", "3"]
    data = run(*command, "-o", tmp_path / "one", "--also", "loss", "--test-rows", "6", "--json").data
    found = Comparison.from_json(json.dumps(data["comparison"]))
    assert found.indicators == ("cosine", "loss")
    assert (len(found.scores), found.settings["test_rows"]) == (2 * 2 * len(DEFAULT_METHODS), 6)
    assert Path(data["report"]) == tmp_path / "one" / "report.html"
    assert found.settings["command"].startswith("headstart compare ")
    assert found.settings["command"].endswith(" --also loss --test-rows 6 --json")
    assert json.loads((tmp_path / "one" / "comparison.json").read_text()) == data["comparison"]
    assert data["decision"]["choice"] in ("use", "fresh", "undecided")
    assert data["decision"]["sentence"]
    # Two draws: 4 modules by 2 indicators, 5 starts. The average is one for both, and so may be the best module.
    starts = found.starts["digest"].nunique()
    blends = found.starts.loc[~found.starts["method"].isin(["scratch", "random"]), "digest"].nunique()
    assert data["units"]["reused"] == {}
    # Every test rests on two more evaluations: a calibration is chosen on the dev and train rows of its own draw.
    drawn = found.starts.groupby(["digest", "seed"]).ngroups
    evaluated = starts + 2 * drawn + 3 * 10 + 3  # and the bare backbone, calibrated as well
    assert data["units"]["computed"] == {"score": 16, "merge": blends, "tune": 10, "evaluate": evaluated}
    table = run(*command, "-o", tmp_path / "two", "--keep", "best")
    (kept,) = (tmp_path / "two" / "modules").iterdir()
    assert f"Modules: {kept}" in table.out
    assert load_module(kept).card.name == f"reviews-{kept.name}"
    assert all(method in table.out for method in DEFAULT_METHODS)
    assert f"Report: {tmp_path / 'two' / 'report.html'}\n" in table.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("words", [["list"], ["show", "ada"], ["check"], ["list", "--json"]])
def test_looking_at_a_hub_needs_no_torch(words: list[str], room: Path) -> None:
    command, *rest = words
    arguments = ["headstart", "hub", command, str(room / "hub"), *rest]
    code = (
        f"import sys, headstart.cli\nsys.argv = {arguments!r}\n"
        "try:\n    headstart.cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'transformers', 'pandas'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ada" in done.stdout or command == "check"


def test_the_installed_program_ends_a_mistake_with_2(tmp_path: Path) -> None:
    program = "from headstart.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "hub", "list", str(tmp_path / "none")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no hub at ")


def test_the_page_of_the_command_line_is_what_the_commands_say() -> None:
    path = Path(__file__).parents[1] / "docs" / "write_cli.py"
    spec = importlib.util.spec_from_file_location("write_cli", path)
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.page() == writer.PAGE.read_text(encoding="utf-8"), "run `python docs/write_cli.py`"


def test_every_public_name_can_be_imported() -> None:
    for name in headstart.__all__:
        assert getattr(headstart, name) is not None
    assert set(headstart.__all__) <= set(dir(headstart))
    with pytest.raises(AttributeError, match="No headstart attribute tuna"):
        headstart.tuna  # noqa: B018


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "headstart", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"headstart {version('headstart')}"


def test_a_narrow_terminal_loses_no_column(run: Run, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (30, 60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = run("hub", "list", room / "hub").out
        assert all(len(line) <= width for line in shown.splitlines())
        for column in ("name", "kind", "rank", "parameters", "family", *NAMES):
            assert column in shown


def test_rank_retrieves_and_races(run: Run, here: dict[str, list[str]]) -> None:
    command = ["rank", *here["task"], *here["hub"], *here["on"], *QUICK, "-i", "loss"]
    command += ["--retrieve", "3", "--retrieve-by", "cosine", "--race", "--confidence", "0.5", "--budget", "0.9"]
    data = json.loads(run(*command, "--json").out)
    assert data["spent"]["computed"] > 0
    assert data["spent"]["share"] == data["spent"]["computed"] / data["spent"]["full"]
    assert [each["stage"] for each in data["modules"]].count("retrieved out") == 1
    assert data["modules"][0]["stage"] == "finalist"
    assert data["modules"][-1]["why"] == "number 4 of 4 by cosine"
    table = run(*command)
    assert "1 other module was not retrieved, and not scored; --json names it." in table.out
    assert f"The backbone reads {data['spent']['computed']:,} tokens for this, " in table.out
    assert "retrieved 3 of 4 modules by cosine" in table.err
    assert "round 1: 3 modules on rows 1 to 4 of 12" in table.err
    assert "no loss of" not in table.err


def test_a_blend_is_made_of_the_winners_of_a_race(run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    command = ["ensemble", *here["task"], *here["hub"], *here["on"], *QUICK, "-i", "loss", "--race"]
    command += ["--confidence", "0.5", "--winners", "2", "--budget", "0.6"]
    table = run(*command, "-o", str(tmp_path / "start"))
    assert "The backbone reads " in table.out
    assert "takes no part" not in table.err
    data = json.loads(run(*command, "-o", str(tmp_path / "again"), "--json").out)
    assert [each["reason"].startswith("left in round") for each in data["refused"]] == [True] * 2
    assert len(data["card"]["donors"]) == 2
    words = [*command, "--rule", "uniform", "-o", str(tmp_path / "third")]
    assert_mistake(run(*words), "rule 'uniform' reads no scores, so there is nothing to retrieve or race for")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--winners", "3"], "--winners is about --race; add --race, or leave out --winners"),
        (["--confidence", "0.9"], "--confidence is about --race; add --race, or leave out --confidence"),
        (["--budget", "0.5"], "--budget is about --race; add --race, or leave out --budget"),
        (["--retrieve-by", "arrow"], "--retrieve-by is about --retrieve; add --retrieve N, or leave out --retrieve-by"),
        (["--join", "best_rank"], "--join is about --retrieve; add --retrieve N, or leave out --join"),
        (["--retrieve", "0"], "cannot retrieve 0 modules; give 1 or more, or leave it out"),
        (["--race", "--confidence", "2"], "confidence 2.0 must be above 0 and below 1; give for example 0.95"),
        (["--race", "-i", "grand"], "'grand' has one value for all rows together, none for each row"),
        (["--retrieve", "2", "--retrieve-by", "arro"], "unknown indicator 'arro'; choose one of: "),
    ],
)
def test_narrowing_that_cannot_be_is_a_mistake(
    run: Run, here: dict[str, list[str]], words: list[str], message: str
) -> None:
    assert_mistake(run("rank", *here["task"], *here["hub"], *here["on"], *words), message)
