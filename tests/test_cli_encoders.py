"""The commands on an encoder: from a hub of modules with task heads to a tuned one and a report."""

import json
from pathlib import Path

import pytest

from encoders import CARDS, encoder, random_module, write
from headstart.comparing.comparison import Comparison
from headstart.hub import Hub
from headstart.kinds import load_module, save_module
from program import FROM_START, Run, assert_mistake
from small_hub import LABELS, write_task

pytest_plugins = ["cli_helper"]

HEADED = {"ada": "classification", "bob": "span", "cyd": None}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, a task of two classes and a hub of three modules, of which two have heads."""
    room = tmp_path_factory.mktemp("encoder-room")
    write(encoder("bert"), room / "tiny-bert")
    write_task(room / "reviews")
    for seed, (name, task) in enumerate(HEADED.items()):
        card = CARDS[task] if task else None
        save_module(random_module(encoder("bert"), card, seed=seed, name=name), room / "made" / name)
    Hub.create(room / "hub").add_all([room / "made" / name for name in HEADED])
    return room


@pytest.fixture
def on(room: Path) -> list[str]:
    """The options that most commands share."""
    return ["--backbone", str(room / "tiny-bert"), "--device", "cpu", "--dtype", "float32", *FROM_START]


def test_a_hub_holds_modules_with_heads(run: Run, room: Path) -> None:
    cards = {card["name"]: card for card in run("hub", "list", room / "hub", "--json").data}
    assert {name: card["head"] and card["head"]["task"] for name, card in cards.items()} == HEADED
    checked = run("hub", "add", room / "checked", room / "made" / "ada", "--backbone", room / "tiny-bert", "--json")
    assert [row["result"] for row in checked.data] == ["accepted"]


def test_tune(run: Run, room: Path, on: list[str], tmp_path: Path) -> None:
    ended = run("tune", room / "reviews", *on, "-o", tmp_path / "tuned", "--json")
    head = ended.data["module"]["head"]
    assert (head["task"], head["outputs"], head["labels"]) == ("classification", 2, list(LABELS))
    assert [point["step"] for point in ended.data["curve"]] == [0, 2, 4]
    module = load_module(tmp_path / "tuned")
    module.check(encoder("bert"))
    assert module.head is not None
    assert "| Task head | classification among negative, positive |" in (tmp_path / "tuned" / "README.md").read_text()
    config = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
    on_from = run("tune", room / "reviews", *on, "--start", room / "made" / "bob", "-o", tmp_path / "grown", "--json")
    assert on_from.data["module"]["head"]["labels"] == list(LABELS), "a head for spans is of no use here"
    shown = run("tune", room / "reviews", *on, "-o", tmp_path / "shown")
    assert (shown.code, "Saved" in shown.out) == (0, True)


def test_rank(run: Run, room: Path, on: list[str]) -> None:
    command = ["rank", room / "reviews", "--hub", room / "hub", *on, "-i", "loss", "-i", "grand", "-i", "tupate"]
    data = run(*command, "--json").data
    assert {row["module"] for row in data["modules"]} == set(HEADED)
    assert (data["examples"], data["tokens"], data["refused"], data["reasons"]) == (12, 12, [], {})
    assert all(row[name] is not None for row in data["modules"] for name in ("loss", "grand", "tupate"))
    assert run(*command).code == 0


def test_ensemble_then_tune(run: Run, room: Path, on: list[str], tmp_path: Path) -> None:
    blend = ["ensemble", room / "reviews", "--hub", room / "hub", *on]
    made = run(*blend, "-o", tmp_path / "start", "--json")
    assert made.data["card"]["head"] is None
    assert {donor["name"] for donor in made.data["card"]["donors"]} == set(HEADED)
    tuned = run("tune", room / "reviews", *on, "--start", tmp_path / "start", "-o", tmp_path / "tuned", "--json")
    assert tuned.data["module"]["head"]["labels"] == list(LABELS)


def test_compare(run: Run, room: Path, on: list[str], tmp_path: Path) -> None:
    ended = run("compare", room / "reviews", "--hub", room / "hub", *on, "--seeds", "2", "--shots", "2", "-o",
                tmp_path / "report")  # fmt: skip
    assert ended.code == 0, ended.err
    said = " ".join(ended.out.split())
    assert "Before tuning, the ensemble and scratch could not be compared (no seed has both" in said
    assert said.count("a fresh task head answers at random until it is tuned") <= 3
    kept = Comparison.from_json((tmp_path / "report" / "comparison.json").read_text())
    assert kept.scores[kept.scores["stage"] == "tuned"]["score"].notna().all()
    assert kept.scores[kept.scores["stage"] == "zero-shot"]["score"].isna().all()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "a fresh task head answers at random until it is tuned" in page


def test_mistakes(run: Run, room: Path, on: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    compare = ["compare", room / "reviews", "--hub", room / "hub", *on, "-o", tmp_path / "report"]
    assert_mistake(run(*compare, "--decoding", "generate"), "tiny-bert is an encoder", "leave decoding at auto")
    language = ["--backbone", tiny_llama, "--device", "cpu", "--dtype", "float32", *FROM_START]
    assert_mistake(
        run("tune", room / "reviews", *language, "--start", room / "made" / "ada", "-o", tmp_path / "out"),
        "module 'ada' was made for another backbone",
    )
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text("".join(f'{{"input": "a {n} b", "output": "{n}"}}\n' for n in range(30)))
    measured = ["--metric", "Pearson-Correlation"]
    assert_mistake(
        run("ensemble", numbers, "--hub", room / "hub", *on, *measured, "-o", tmp_path / "out"),
        "'cosine' has no value for", "use one of: ",
    )  # fmt: skip
    done = run(
        "ensemble", numbers, "--hub", room / "hub", *on, *measured, "-i", "loss", "-o", tmp_path / "out", "--json"
    )
    assert done.code == 0, done.err
    words = tmp_path / "words.jsonl"
    words.write_text("".join(f'{{"input": "a {n} b", "output": "c {n}"}}\n' for n in range(30)))
    assert_mistake(
        run("tune", words, *on, "-o", tmp_path / "other"),
        "does not stand in its input", "use a text-to-text backbone for this task",
    )  # fmt: skip
    assert not (tmp_path / "other").exists()


def test_one_kind_of_a_hub(run: Run, room: Path, on: list[str]) -> None:
    command = ["rank", room / "reviews", "--hub", room / "hub", *on, "-i", "tupate", "--json"]
    every, loras = run(*command).data, run(*command, "--kind", "lora").data
    assert [row["module"] for row in loras["modules"]] == [row["module"] for row in every["modules"]]
    ended = run(*command, "--kind", "prefix")
    assert ended.code == 2
    assert "has no module of kind 'prefix' (it has: " in " ".join(ended.err.split())
