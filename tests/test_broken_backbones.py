"""Broken and hostile backbones are refused when they are loaded, with the remedy, and nothing in them is run."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart.backbones import Backbone, TextFormat
from headstart.errors import BackboneError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

CHECK = "check the name, the files and, for a hub id, the network"


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    """A folder of a backbone to break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "broken"))


def config(**fields: Any) -> Callable[[Path], object]:
    return changed("config.json", **fields)


def changed(name: str, **fields: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def index(content: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(content)

    return write


def gguf(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "model.gguf").write_bytes(content)
        return folder / "model.gguf"

    return write


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no heads": (config(num_attention_heads=0), CHECK),
    "no heads of keys": (config(num_key_value_heads=0), CHECK),
    "heads as text": (config(num_attention_heads="x"), rf"field 'num_attention_heads'.* got str.*; {CHECK}"),
    "hidden size below 0": (config(hidden_size=-1), CHECK),
    "no layers": (config(num_hidden_layers=0), "states 0 layers; copy the model again"),
    "layers below 0": (config(num_hidden_layers=-1), "states -1 layers; copy the model again"),
    "no vocabulary": (config(vocab_size=0), CHECK),
    "null as configuration": (text("config.json", "null"), CHECK),
    "a number as configuration": (text("config.json", "3"), CHECK),
    "deep configuration": (text("config.json", "[" * 100_000), CHECK),
    "a list as model type": (config(model_type=["llama"]), CHECK),
    "an unknown dtype": (config(dtype="evil"), CHECK),
    "a number as quantization": (config(quantization_config=3), CHECK),
    "code of its own": (
        config(model_type="evil", auto_map={"AutoConfig": "evil.Config"}),
        "it comes with code of its own, which Headstart never runs; choose a model that transformers knows",
    ),
    "null as index": (index("null"), CHECK),
    "index without a map": (index("{}"), CHECK),
    "a list as map": (index('{"weight_map": [1]}'), CHECK),
    "a number as file": (index('{"weight_map": {"a": 3}, "metadata": {}}'), CHECK),
    "a file elsewhere": (
        index('{"weight_map": {"a": "../x.safetensors"}, "metadata": {}}'),
        r"names the file \.\./x\.safetensors, which is not in its folder; copy the model again",
    ),
    "null as tokenizer": (text("tokenizer.json", "null"), CHECK),
    "null as tokenizer's configuration": (text("tokenizer_config.json", "null"), CHECK),
    "null as generation's configuration": (text("generation_config.json", "null"), CHECK),
    "GGUF of 4 bytes": (gguf(b"GGUF"), CHECK),
    "GGUF cut short": (gguf(b"GGUF" + struct.pack("<IQQ", 3, 255, 2**63)), CHECK),
    "a name that is no path": (lambda _: "a\0b", CHECK),
}


@pytest.mark.parametrize(("break_it", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_backbone_is_refused_with_the_remedy(
    copy: Path, break_it: Callable[[Path], object], message: str
) -> None:
    made = break_it(copy)
    source = made if isinstance(made, Path) or made == "a\0b" else copy
    with pytest.raises(BackboneError, match=message):
        Backbone.load(source, device="cpu", dtype="float32")  # type: ignore[arg-type]


class Touch:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickled_weights_are_not_run(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Touch(tmp_path / "ran")}, copy / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"a pickle with more than tensors in it, .*; ask its owner for model\.saf"):
        Backbone.load(copy, device="cpu", dtype="float32")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_named_pipe_is_refused_instead_of_waited_for(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(BackboneError, match=rf"{name} is not a regular file; replace it with the file itself"):
        Backbone.load(copy, device="cpu", dtype="float32")


def test_a_folder_that_cannot_be_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(BackboneError, match=rf"cannot load the backbone .*Permission denied.*; {CHECK}"):
        Backbone.load(copy, device="cpu", dtype="float32")


def test_a_token_without_an_embedding_is_refused_at_once(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["f"] = 99_999
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        BackboneError, match=r"gives token 'f' the number 99999, but the model has embeddings for \d+ tok"
    ):
        Backbone.load(copy, device="cpu", dtype="float32")


def test_an_added_token_without_an_embedding_is_refused_where_a_text_has_it(copy: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(copy)
    backbone = Backbone.load(copy, device="cpu", dtype="float32")
    assert backbone.encode([("the film", "yes")], TextFormat())
    for pair in (("the <image>", "yes"), ("the film", "<image>")):
        with pytest.raises(
            BackboneError, match="the token '<image>', which the backbone has no embedding for; take it"
        ):
            backbone.encode([pair], TextFormat())
