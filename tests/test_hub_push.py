"""Modules to a hub, their model cards, and the commands, through a stand-in that speaks the hub's protocol."""

import json
import sys
from pathlib import Path

import pytest

from handmade import lora_config, write_module
from headstart import cli
from headstart.errors import HeadstartError, HubError
from headstart.formats import read_module
from headstart.hub import Hub
from headstart.hub.model_card import readme, stated_license
from headstart.hub.reference import RemoteModule
from headstart.hub.remote import push
from headstart.records import Calibration, Donor, HeadCard, TextFormat
from hub_standin import TOKEN, HubStandin

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "headstart.json"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub.create(tmp_path / "hub")


@pytest.fixture
def rte(tmp_path: Path) -> Path:
    return write_module(tmp_path / "made" / "rte", seed=1)


@pytest.fixture
def login(hub_standin: HubStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def license_it(folder: Path, license_id: str) -> Path:
    read_module(folder).card.model_copy(update={"license": license_id}).write(folder / CARD)
    return folder


# Pushing


@pytest.mark.usefixtures("login")
def test_what_is_pushed_comes_back_the_same(hub_standin: HubStandin, hub: Hub, rte: Path, tmp_path: Path) -> None:
    hub.add(license_it(rte, "mit"))
    pushed = push(hub.read("rte"), "ann/rte-lora")
    repo = hub_standin.repos["ann/rte-lora"]
    assert pushed == RemoteModule("ann/rte-lora", repo.revisions["main"])
    assert list(repo.commits) == [pushed.revision]  # in one commit
    assert sorted(repo.commits[str(pushed.revision)]) == ["README.md", CONFIG, WEIGHTS, CARD]
    other = Hub.create(tmp_path / "other")
    card = other.add(str(pushed))
    assert card == hub.card("rte").model_copy(update={"name": "rte-lora", "origin": str(pushed)})


@pytest.mark.usefixtures("login")
def test_the_readme_has_the_metadata(hub_standin: HubStandin, hub: Hub, rte: Path, tmp_path: Path) -> None:
    from huggingface_hub import metadata_load

    (rte / CONFIG).write_text(json.dumps(lora_config(base_model_name_or_path="meta/llama")))
    donors = (
        Donor(name="a|b", tensor_hash="0", weight=0.25, license="mit"),
        Donor(name="c", tensor_hash="1", weight=0.75),
    )
    read_module(rte).card.model_copy(update={"donors": donors, "notes": "Merged."}).write(rte / CARD)
    commit = push(read_module(rte), "ann/rte", license_id="apache-2.0").revision
    files = hub_standin.repos["ann/rte"].commits[str(commit)]
    (tmp_path / "README.md").write_bytes(files["README.md"])
    assert metadata_load(tmp_path / "README.md") == {
        "library_name": "peft",
        "base_model": "meta/llama",
        "license": "apache-2.0",
        "tags": ["headstart", "lora"],
    }
    text = files["README.md"].decode()
    assert "| a\\|b | 0.2500 | mit |" in text
    assert "| c | 0.7500 | — |" in text
    assert stated_license(tmp_path) == json.loads(files[CARD])["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("license_id", "base_model", "expected"),
    [
        ("", "", {}),
        ("Apache-2.0", "gpt2", {"license": "apache-2.0", "base_model": "gpt2"}),
        ("mixed: mit; unstated", "", {"license": "other", "license_name": "mixed-mit-unstated"}),
        ('"x": [', "/home/ann/llama", {"license": "other", "license_name": "x"}),
        ("mit", "C:\\models\\llama", {"license": "mit"}),
        ("mit", "../llama", {"license": "mit"}),
    ],
)
def test_metadata_holds_what_a_hub_understands(
    rte: Path, tmp_path: Path, license_id: str, base_model: str, expected: dict[str, str]
) -> None:
    from huggingface_hub import metadata_load

    card = read_module(rte).card.model_copy(update={"license": license_id, "base_model": base_model})
    (tmp_path / "README.md").write_text(readme(card))
    always = {"library_name": "peft", "tags": ["headstart", "lora"]}
    assert metadata_load(tmp_path / "README.md") == always | expected
    assert stated_license(tmp_path) == expected.get("license_name", expected.get("license", ""))


def test_the_readme_states_the_prompt_and_shows_notes_as_they_are(rte: Path) -> None:
    notes = "<img src=https://example.org/a.png> ![b](https://example.org/b.png)\n``` # more"
    card = read_module(rte).card.model_copy(
        update={"notes": notes, "task": "<b>x</b> ![i](u) `c`", "text_format": TextFormat(suffix='\n"A|":')}
    )
    text = readme(card)
    assert text.endswith(f"\n\n````text\n{notes}\n````\n")
    assert r"| Task | \<b\>x\</b\> !\[i\](u) \`c\` |" in text
    assert r'| Prompt | the input, then "\\n\\"A\|\\":" |' in text
    whole = card.model_copy(update={"text_format": TextFormat(suffix="")})
    assert "| Prompt | the input as it is |" in readme(whole)
    assert "Calibration" not in readme(card.model_copy(update={"calibration": Calibration()}))
    batch = card.model_copy(update={"calibration": Calibration(method="batch", offsets={"no": -1.0})})
    line = "| Calibration | batch, where Headstart chooses among labels; text that the model writes is without it |"
    assert line in readme(batch)
    assert "Prompt" not in readme(card.model_copy(update={"text_format": None}))
    assert "Prompt" not in readme(card.model_copy(update={"head": HeadCard(task="span", outputs=2)}))


@pytest.mark.parametrize(
    "text", [None, "", "# rte\nlicense: mit\n", "---\nlicense: [mit]\n---\n", "---\nlicense: mit\n", "\udcff"]
)
def test_a_readme_without_a_licence_states_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "README.md").write_bytes(text.encode(errors="surrogateescape"))
    assert stated_license(tmp_path) == ""


@pytest.mark.usefixtures("login")
def test_private_and_branches(hub_standin: HubStandin, rte: Path) -> None:
    module = read_module(license_it(rte, "mit"))
    push(module, "ann/rte", private=True, branch="dev")
    repo = hub_standin.repos["ann/rte"]
    assert repo.private
    assert WEIGHTS in repo.commits[repo.revisions["dev"]]
    assert WEIGHTS not in repo.commits.get(repo.revisions.get("main", ""), {})
    push(module, "ann/rte", private=True, branch="dev")  # both are there now, and nothing is new
    hub_standin.add("ann/public", {"README.md": b""})
    with pytest.raises(HubError, match=r"hf://ann/public exists already and is public; push without --private, or to"):
        push(module, "ann/public", private=True)
    assert len(hub_standin.repos["ann/public"].commits) == 1


@pytest.mark.usefixtures("login")
def test_nothing_is_pushed_that_may_not_be(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    hub.add(rte)
    with pytest.raises(HubError, match=r"module 'rte' has no licence on its card.*; state it with --license"):
        push(hub.read("rte"), "ann/rte")
    licensed = read_module(license_it(rte, "mit"))
    with pytest.raises(HubError, match=r"module 'rte' states the licence 'mit', not 'apache-2.0'; leave out --license"):
        push(licensed, "ann/rte", license_id="apache-2.0")
    with pytest.raises(HubError, match=r"'hf://rte' is not a reference"):
        push(licensed, "rte")
    with pytest.raises(HubError, match=r"'ann/rte@v1' names a revision; .*--revision v1"):
        push(licensed, "ann/rte@v1")
    (hub.folder("rte") / WEIGHTS).write_bytes(b"junk")
    with pytest.raises(HeadstartError, match="is not a sound safetensors file"):
        push(hub.read("rte"), "ann/rte", license_id="mit")
    assert hub_standin.requests == []


def test_pushing_without_a_login(hub_standin: HubStandin, rte: Path) -> None:
    message = r"cannot push to hf://ann/rte: this login has no right to do so; log in with `hf auth login`"
    with pytest.raises(HubError, match=message):
        push(read_module(license_it(rte, "mit")), "ann/rte")
    assert hub_standin.repos == {}


@pytest.mark.usefixtures("login")
def test_metadata_that_the_hub_refuses(hub_standin: HubStandin, rte: Path) -> None:
    hub_standin.bad_metadata = '"license" must be one of [mit]'
    with pytest.raises(HubError, match=r'the server refused it \(.*"license" must be one of \[mit\]\)'):
        push(read_module(license_it(rte, "nonsense-9")), "ann/rte")
    assert hub_standin.repos["ann/rte"].commits == {}


# The command line


def headstart(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the program in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.usefixtures("login")
def test_the_commands_from_end_to_end(
    hub_standin: HubStandin,
    rte: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert headstart(monkeypatch, "hub", "add", ours, rte) == 0
    assert headstart(monkeypatch, "hub", "push", ours, "rte", "ann/rte") == 2
    assert "has no licence on its card" in capsys.readouterr().err
    assert headstart(monkeypatch, "hub", "push", ours, "rte", "ann/rte", "--license", "mit", "--private", "--json") == 0
    pushed = json.loads(capsys.readouterr().out)
    assert pushed["reference"] == f"hf://ann/rte@{hub_standin.repos['ann/rte'].revisions['main']}"
    assert headstart(monkeypatch, "hub", "push", ours, "rte", "ann/rte", "--license", "mit", "--revision", "dev") == 0
    assert "Pushed rte; others add it with headstart hub add HUB hf://ann/rte@" in capsys.readouterr().out

    assert headstart(monkeypatch, "hub", "add", theirs, "hf://ann/rte", "hf://ann/absent", "--json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert [(row["module"], row["result"], row["folder"]) for row in rows] == [
        ("rte", "accepted", "hf://ann/rte"),
        ("absent", "refused", "hf://ann/absent"),
    ]
    assert "there is no such repository" in rows[1]["reason"]
    assert headstart(monkeypatch, "hub", "show", theirs, "rte", "--json") == 0
    assert json.loads(capsys.readouterr().out)["origin"] == pushed["reference"]
