"""Modules and backbones from a hub, through a stand-in that speaks the hub's protocol."""

import json
from pathlib import Path

import pytest

from handmade import lora_config, lora_tensors, pack, write_module
from headstart.errors import BackboneError, HubError, ModuleError
from headstart.formats import read_module
from headstart.hub import Hub
from headstart.hub.reference import RemoteModule, is_reference, parse_reference
from headstart.hub.remote import fetch
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


def left_in(hub: Hub) -> list[str]:
    """What a hub's folder holds besides the catalogue."""
    return sorted(path.name for path in hub.path.iterdir() if not path.name.startswith(".catalogue"))


# References


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("hf://ann/rte", "ann/rte", None),
        ("hf://ann/rte@v2", "ann/rte", "v2"),
        ("hf://a.b/c_d-3@refs/pr/1", "a.b/c_d-3", "refs/pr/1"),
    ],
)
def test_references_are_read_and_written(text: str, repo: str, revision: str | None) -> None:
    assert parse_reference(text) == RemoteModule(repo, revision)
    assert str(parse_reference(text)) == text
    assert is_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://rte",
        "hf://ann/rte/x",
        "hf://ann/rte@",
        "hf://ann/r te",
        "hf://../rte",
        "hf://ann/a..b",
        "ann/rte",
    ],
)
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(
        HubError, match=r"is not a reference to a remote module; write hf://owner/name or hf://owner/name@rev"
    ):
        parse_reference(text)


# Adding


def test_a_remote_module_is_added_with_its_commit_on_the_card(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    commit = hub_standin.add("ann/rte-lora", rte)
    card = hub.add("hf://ann/rte-lora")
    assert card.name == "rte-lora"
    assert card.origin == f"hf://ann/rte-lora@{commit}"
    assert card.tensor_hash == read_module(rte).card.tensor_hash
    assert left_in(hub) == ["rte-lora"]
    assert all(path.is_file() and not path.is_symlink() for path in hub.folder("rte-lora").iterdir())
    assert Hub.open(hub.path).card("rte-lora") == hub.read("rte-lora").card == card
    assert hub.check() == []


def test_a_branch_tag_or_commit_is_what_is_fetched(
    hub_standin: HubStandin, hub: Hub, rte: Path, tmp_path: Path
) -> None:
    first = hub_standin.add("ann/rte", rte)
    second = hub_standin.add("ann/rte", write_module(tmp_path / "newer", seed=2))
    hub_standin.repos["ann/rte"].revisions["v1"] = first
    assert hub.add("hf://ann/rte").origin == f"hf://ann/rte@{second}"
    assert hub.add("hf://ann/rte@v1", name="old").origin == f"hf://ann/rte@{first}"
    assert hub.card("old").tensor_hash == read_module(rte).card.tensor_hash
    hub.remove("old")
    assert hub.add(f"hf://ann/rte@{first}", name="old").origin == f"hf://ann/rte@{first}"


def test_only_the_files_of_a_module_are_fetched(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    others = {
        "optimizer.pt": b"x",
        "training_args.bin": b"x",
        "sub/README.md": b"x",
        "README.md": b"# rte",
        "LICENSE": b"MIT",
    }
    hub_standin.add("ann/rte", rte)
    hub_standin.add("ann/rte", others)
    hub.add("hf://ann/rte")
    assert sorted(path.name for path in hub.folder("rte").iterdir()) == ["LICENSE", "README.md", CONFIG, WEIGHTS, CARD]
    assert not [request for request in hub_standin.requests if "optimizer" in request or "training_args" in request]


def test_the_card_of_the_remote_module_is_kept_and_its_origin_replaced(
    hub_standin: HubStandin, hub: Hub, rte: Path
) -> None:
    stated = {"task": "rte", "license": "mit", "score": 0.5, "origin": "hf://somebody/else@0"}
    read_module(rte).card.model_copy(update=stated).write(rte / CARD)
    commit = hub_standin.add("ann/rte", rte)
    hub_standin.add("ann/rte", {})
    card = hub.add(f"hf://ann/rte@{commit}")
    assert (card.task, card.license, card.score, card.origin) == ("rte", "mit", 0.5, f"hf://ann/rte@{commit}")


def test_a_licence_in_the_metadata_comes_onto_the_card(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    hub_standin.add("ann/rte", rte)
    hub_standin.add(
        "ann/rte", {"README.md": b"---\nlibrary_name: peft\nlicense: apache-2.0\n---\n# rte\nlicense: mit\n"}
    )
    assert hub.add("hf://ann/rte").license == "apache-2.0"


def test_folders_and_references_may_be_mixed(hub_standin: HubStandin, hub: Hub, rte: Path, tmp_path: Path) -> None:
    hub_standin.add("ann/rte", rte)
    local = write_module(tmp_path / "local", seed=3)
    admissions = hub.add_all(["hf://ann/rte", local, "hf://ann/absent", "hf://nonsense"])
    assert [(a.path, a.name, a.card is None) for a in admissions] == [
        ("hf://ann/rte", "rte", False),
        (local, "local", False),
        ("hf://ann/absent", "absent", True),
        ("hf://nonsense", "hf://nonsense", True),
    ]
    assert hub.card("local").origin == ""
    assert left_in(hub) == ["local", "rte"]


def test_a_taken_name_is_refused_before_anything_is_asked(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    hub.add(rte)
    hub_standin.add("ann/rte", rte)
    with pytest.raises(
        HubError,
        match=r"already has a module 'rte'; choose another name \(--name, or name=",
    ):
        hub.add("hf://ann/rte")
    assert hub_standin.requests == []
    with pytest.raises(ModuleError, match="module 'twin' has the same tensors as 'rte' in the hub"):
        hub.add("hf://ann/rte", name="twin")
    assert left_in(hub) == ["rte"]


def test_a_broken_remote_module_is_named_by_its_reference(hub_standin: HubStandin, hub: Hub) -> None:
    config = json.dumps(lora_config(peft_type="LOHA")).encode()
    hub_standin.add("ann/loha", {CONFIG: config, WEIGHTS: pack(lora_tensors())})
    with pytest.raises(ModuleError, match=r"^hf://ann/loha/adapter_config.json: peft_type 'LOHA' is not supported"):
        hub.add("hf://ann/loha")
    assert left_in(hub) == []


def test_fetch_alone_makes_a_folder_that_is_a_module(hub_standin: HubStandin, rte: Path, tmp_path: Path) -> None:
    commit = hub_standin.add("ann/rte", rte)
    pinned = fetch("hf://ann/rte", tmp_path / "here", cache=tmp_path / "cache")
    assert pinned == RemoteModule("ann/rte", commit)
    assert read_module(tmp_path / "here").card.origin == str(pinned)
    assert (tmp_path / "cache").is_dir()


def test_without_a_network_a_copy_in_the_cache_will_do(
    hub_standin: HubStandin, rte: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub_standin.add("ann/rte", rte)
    fetch("hf://ann/rte", tmp_path / "first")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch("hf://ann/rte", tmp_path / "second") == RemoteModule("ann/rte", commit)


def test_the_origin_goes_with_the_tensors(hub_standin: HubStandin, hub: Hub, rte: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from headstart.kinds import load_module, save_module

    hub_standin.add("ann/rte", rte)
    origin = hub.add("hf://ann/rte").origin
    module = load_module(hub.folder("rte"))
    assert save_module(module, tmp_path / "same").card.origin == origin
    # Tuning and merging leave the hash open, as what they make is new.
    made = replace(module, card=module.card.model_copy(update={"tensor_hash": ""}))
    assert save_module(made, tmp_path / "new").card.origin == ""


# A download that breaks off


def test_a_connection_that_breaks_is_resumed_where_it_stopped(
    hub_standin: HubStandin, hub: Hub, rte: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50)
    hub_standin.add("ann/rte", rte)
    hub_standin.cut[WEIGHTS] = 100
    assert hub.add("hf://ann/rte").tensor_hash == read_module(rte).card.tensor_hash
    asked = [
        request.partition(WEIGHTS)[2]
        for request in hub_standin.requests
        if request.startswith("GET /ann") and WEIGHTS in request
    ]
    assert asked == ["", " bytes=100-"]


def test_a_download_that_fails_leaves_nothing_and_keeps_what_is_complete(
    hub_standin: HubStandin, hub: Hub, rte: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub_standin.add("ann/rte", rte)
    hub_standin.cut[WEIGHTS] = 100
    hub_standin.status[WEIGHTS] = 503
    with pytest.raises(
        HubError, match=r"cannot fetch hf://ann/rte: the server answered with 503; run the same command"
    ):
        hub.add("hf://ann/rte")
    assert left_in(hub) == hub.names() == []
    hub_standin.status.clear()
    hub_standin.requests.clear()
    hub.add("hf://ann/rte")
    assert not [request for request in hub_standin.requests if CONFIG in request]
    assert hub.names() == ["rte"]


# What cannot be fetched


def test_a_repository_that_is_not_there_or_not_open(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    hub_standin.add("ann/secret", rte, private=True)
    for name in ("absent", "secret"):
        message = rf"cannot fetch hf://ann/{name}: there is no such repository, or it is private; .*hf auth login"
        with pytest.raises(HubError, match=message):
            hub.add(f"hf://ann/{name}")
    assert left_in(hub) == []


@pytest.mark.usefixtures("login")
def test_a_login_opens_what_is_private_or_gated(hub_standin: HubStandin, hub: Hub, rte: Path, tmp_path: Path) -> None:
    hub_standin.add("ann/secret", rte, private=True)
    hub_standin.add("ann/gated", write_module(tmp_path / "gated", seed=2), gated=True)
    assert hub.add("hf://ann/secret").name == "secret"
    assert hub.add("hf://ann/gated").name == "gated"


def test_a_gated_repository(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    hub_standin.add("ann/gated", rte, gated=True)
    with pytest.raises(
        HubError,
        match=r"hf://ann/gated: it is gated; accept its terms at .*/ann/gated, then log in with `hf auth login`",
    ):
        hub.add("hf://ann/gated")


def test_a_revision_that_is_not_there(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    hub_standin.add("ann/rte", rte)
    with pytest.raises(HubError, match=r"hf://ann/rte@v9: there is no such revision; name a branch, tag or commit"):
        hub.add("hf://ann/rte@v9")
    with pytest.raises(HubError, match=r"there is no such revision"):
        hub.add(f"hf://ann/rte@{'0' * 40}")


def test_offline(hub_standin: HubStandin, hub: Hub, rte: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_standin.add("ann/rte", rte)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = r"cannot fetch hf://ann/rte: offline mode is on and the cache has no copy; unset HF_HUB_OFFLINE"
    with pytest.raises(HubError, match=message):
        hub.add("hf://ann/rte")
    assert hub_standin.requests == []


def test_nobody_answers(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    hub_standin.add("ann/rte", rte)
    hub_standin.close()
    message = rf"hf://ann/rte: the connection to {hub_standin.url} failed .*check the network and run the same command"
    with pytest.raises(HubError, match=message):
        hub.add("hf://ann/rte")


def test_a_server_out_of_order(hub_standin: HubStandin, hub: Hub, rte: Path) -> None:
    hub_standin.add("ann/rte", rte)
    hub_standin.status["models"] = 500
    with pytest.raises(HubError, match=r"hf://ann/rte: the server answered with 500; run the same command again later"):
        hub.add("hf://ann/rte")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"# model"}, rf"has no {CONFIG}, so it is no PEFT module; name a repository that holds one"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, rf"has no {CONFIG}, so it is no PEFT module"),
        ({CONFIG: b"{}"}, rf"has no {WEIGHTS}, so it is no PEFT module"),
        (
            {CONFIG: b"{}", "adapter_model.bin": b""},
            r"only as the pickle adapter_model.bin, and pickle files can run code",
        ),
    ],
)
def test_repositories_that_hold_no_module(
    hub_standin: HubStandin, hub: Hub, files: dict[str, bytes], message: str
) -> None:
    commit = hub_standin.add("ann/other", files)
    with pytest.raises(HubError, match=rf"^hf://ann/other@{commit} .*{message}"):
        hub.add("hf://ann/other")
    assert left_in(hub) == []


# Backbones


def test_a_backbone_by_its_id_is_the_local_one(hub_standin: HubStandin, tiny_llama: Path) -> None:
    from headstart.backbones import Backbone

    commit = hub_standin.add("owner/tiny-llama", tiny_llama)
    hub_standin.add("owner/tiny-llama", {"config.json": b"{}"})
    hub_standin.repos["owner/tiny-llama"].revisions = {"main": commit, "v1": commit}
    local = Backbone.load(tiny_llama, device="cpu", dtype="float32")
    for revision in (None, "v1", commit):
        remote = Backbone.load("owner/tiny-llama", device="cpu", dtype="float32", revision=revision)
        assert remote.fingerprint.same_as(local.fingerprint)
        assert remote.name == "owner/tiny-llama"
        assert remote.tokenizer("a warm film") == local.tokenizer("a warm film")


def test_a_backbone_at_a_revision_is_that_one(hub_standin: HubStandin, tiny_llama: Path, tiny_gpt2: Path) -> None:
    from headstart.backbones import Backbone

    hub_standin.repos.clear()
    first = hub_standin.add("owner/model", tiny_llama)
    hub_standin.repos["owner/model"].revisions = {}
    hub_standin.add("owner/model", tiny_gpt2)
    assert Backbone.load("owner/model", device="cpu").model.config.model_type == "gpt2"
    assert Backbone.load("owner/model", device="cpu", revision=first).model.config.model_type == "llama"


def test_a_backbone_that_is_not_there(hub_standin: HubStandin, tiny_llama: Path) -> None:
    from headstart.backbones import Backbone

    hub_standin.add("owner/tiny-llama", tiny_llama)
    with pytest.raises(BackboneError, match=r"no backbone at owner/absent: .* shows no such model; check the name"):
        Backbone.load("owner/absent", device="cpu")
    with pytest.raises(BackboneError, match=r"owner/tiny-llama has no revision 'v9'; name a branch, tag or commit"):
        Backbone.load("owner/tiny-llama", device="cpu", revision="v9")
