"""Alterations of the folder: links, files that are not regular, missing or additional files, and the card."""

import json
import os
import pickle
import shutil
from pathlib import Path
from random import Random
from typing import Any

from tests.corpus.case import Expectation, Mutation
from tests.corpus.pickle_mutations import Calls

from headstart.records import CARD_FILE
from headstart.testing.oracles.stored import config_path, head_path, weights_of

__all__ = ["FILE_MUTATIONS"]

Made = tuple[str, Expectation] | None


def _file(folder: Path, rng: Random) -> Path:
    others = [path for path in (folder / CARD_FILE, head_path(folder)) if path.exists()]
    return rng.choice([config_path(folder), weights_of(folder), *others])


def _gone(folder: Path, rng: Random) -> Made:
    path = rng.choice((config_path(folder), weights_of(folder)))
    path.unlink()
    return f"no {path.name}", "refused"


def _emptied(folder: Path, rng: Random) -> Made:
    path = _file(folder, rng)
    path.write_bytes(b"\x00" * rng.choice((0, 0, 1, 64)))
    return f"{path.name} is empty or zeros", "refused"


def _odd_file(folder: Path, rng: Random) -> Made:
    path = _file(folder, rng)
    path.unlink()
    how = rng.choice(("folder", "fifo", "device", "loop", "dangling", "itself"))
    if how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "loop":
        path.symlink_to(path.name + ".x")
        path.with_name(path.name + ".x").symlink_to(path.name)
    else:
        path.symlink_to("nothing here" if how == "dangling" else path.name)
    return f"{path.name} is a {how}", "refused"


def _link_out(folder: Path, rng: Random) -> Made:
    path = _file(folder, rng)
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    shutil.move(path, outside / path.name)
    target = outside / path.name
    path.symlink_to(target if rng.random() < 0.5 else Path("..") / outside.name / path.name)
    return f"{path.name} is a link out of the folder", "refused"


def _link_within(folder: Path, rng: Random) -> Made:
    path = _file(folder, rng)
    (folder / "blobs").mkdir()
    shutil.move(path, folder / "blobs" / "content")
    path.symlink_to(Path("blobs") / "content")
    return f"{path.name} is a link within the folder", "same"


def _second_file(folder: Path, rng: Random) -> Made:
    weights = weights_of(folder)
    if weights.name in ("adapter_model.safetensors", "pytorch_model.bin"):
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(Calls(folder.parent / "marker")))
        return "a pickle that runs code beside the tensors", "same"
    other = {"adapter.safetensors": "pytorch_adapter.bin"}.get(weights.name, "adapter.safetensors")
    shutil.copy(weights, folder / other)
    del rng
    return f"{other} beside {weights.name}", "refused"


def _only_pickle(folder: Path, rng: Random) -> Made:
    path = weights_of(folder)
    path.unlink()
    name = rng.choice(("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin", "pytorch_adapter.bin"))
    (folder / name).write_bytes(pickle.dumps(Calls(folder.parent / "marker"), protocol=rng.randrange(6)))
    return f"only {name}, which runs code", "refused"


def _card_field(folder: Path, rng: Random) -> Made:
    path = folder / CARD_FILE
    if not path.exists():
        return None
    card = json.loads(path.read_text(encoding="utf-8"))
    wrong: dict[str, Any] = {
        "kind": "prefix" if card["kind"] != "prefix" else "lora", "parameters": card["parameters"] + 1,
        "tensor_hash": card["tensor_hash"][::-1], "rank": 99, "scaling": 3.14, "targets": ["model.layers.0.elsewhere"],
        "schema_version": 2, "backbone": card["backbone"] | {"weights": "0" * 64}, "name": 7, "more": "unknown",
        "donors": "none",
    }  # fmt: skip
    field = rng.choice(sorted(wrong))
    path.write_text(json.dumps(card | {field: wrong[field]}), encoding="utf-8")
    return f"the card's '{field}' is {str(wrong[field])[:40]!r}", "refused"


def _card_broken(folder: Path, rng: Random) -> Made:
    path = folder / CARD_FILE
    if not path.exists():
        return None
    text = path.read_bytes()
    forms = (
        b"", b"[]", b"null", text[:-3], b"[" * 100_000, b"\xff" + text, b"\xef\xbb\xbf" + text, b'"text"',
        text.replace(b'"parameters": ', b'"parameters": 1' + b"0" * 5000, 1),
        text.replace(b'"parameters": ', b'"parameters": 1e400', 1),
    )  # fmt: skip
    made = rng.choice(forms)
    path.write_bytes(made)
    return f"the card begins with {made[:20]!r}", "refused"


def _card_remark(folder: Path, rng: Random) -> Made:
    path = folder / CARD_FILE
    if not path.exists():
        return None
    card = json.loads(path.read_text(encoding="utf-8"))
    field, value = rng.choice((("notes", "x" * 9999), ("license", "mit"), ("task", "../../etc"), ("score", 0.5)))
    path.write_text(json.dumps(card | {field: value}), encoding="utf-8")
    return f"the card's '{field}' is another", "same"


FILE_MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "file missing or empty": (_gone, _emptied),
    "no regular file": (_odd_file,),
    "link": (_link_out, _link_within),
    "file too many": (_second_file, _only_pickle),
    "card contradicts": (_card_field, _card_field),
    "card malformed or with other remarks": (_card_broken, _card_remark),
}
"""By the family's name in the table."""
