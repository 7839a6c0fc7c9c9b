"""Alterations of AdapterHub's pytorch_adapter.bin: the archive, and the pickle in it."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import torch
from tests.corpus.case import Expectation, Mutation
from torch import Tensor

from headstart.testing.oracles.stored import load_tensors, weights_of

__all__ = ["PICKLE_MUTATIONS", "Calls"]

Made = tuple[str, Expectation] | None
Members = list[tuple[str, bytes]]


class Calls:
    """An object whose pickle makes a file when it is read by a reader that runs what it says."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def _members(folder: Path) -> Members | None:
    path = weights_of(folder)
    if path.suffix != ".bin":
        return None
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _write(folder: Path, members: Members, *, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(weights_of(folder), "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def _bits(folder: Path, rng: Random) -> Made:
    if _members(folder) is None:
        return None
    path = weights_of(folder)
    content = bytearray(path.read_bytes())
    count = rng.choice((1, 1, 1, 1, 5))
    for _ in range(count):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{count} bits of the archive flipped", "oracle"


def _program_bits(folder: Path, rng: Random) -> Made:
    """In the pickle itself, under a checksum that fits."""
    members = _members(folder)
    if members is None:
        return None
    changed = []
    for name, content in members:
        altered = bytearray(content)
        if name.endswith("data.pkl"):
            for _ in range(rng.choice((1, 1, 3))):
                altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
        changed.append((name, bytes(altered)))
    _write(folder, changed)
    return "bits of the pickle flipped", "oracle"


def _appended(folder: Path, rng: Random) -> Made:
    if _members(folder) is None:
        return None
    path = weights_of(folder)
    more = rng.randbytes(rng.randrange(1, 200))
    path.write_bytes(path.read_bytes() + more if rng.random() < 0.5 else more + path.read_bytes())
    return f"{len(more)} bytes before or behind the archive", "oracle"


def _archive(folder: Path, rng: Random) -> Made:
    members = _members(folder)
    if members is None:
        return None
    root = members[0][0].partition("/")[0]
    tricks: dict[str, Members] = {
        "an entry '../../outside'": [*members, ("../../outside", b"x")],
        "an entry '/outside'": [*members, ("/outside", b"x")],
        f"an entry '{root}/../outside'": [*members, (f"{root}/../outside", b"x")],
        "a folder": [*members, (f"{root}/more/", b"")],
        "a second root": [*members, ("other/data.pkl", b"x")],
        "no data.pkl": [m for m in members if not m[0].endswith("data.pkl")],
        "an entry less": [m for m in members if not m[0].endswith("data/0")],
        "big-endian": [(n, b"big" if n.endswith("byteorder") else c) for n, c in members],
        "shorter values": [(n, c[:-4] if n.endswith("data/0") else c) for n, c in members],
        "longer values": [(n, c + b"\0" * 4 if n.endswith("data/0") else c) for n, c in members],
    }
    name = rng.choice(sorted(tricks))
    _write(folder, tricks[name])
    return f"an archive with {name}", "refused" if name != "a folder" else "oracle"


def _doubled(folder: Path, rng: Random) -> Made:
    members = _members(folder)
    if members is None:
        return None
    name, content = rng.choice(members)
    raw = io.BytesIO()
    # The library warns of the second entry, so it is first written under another name of the same length.
    other = name[:-1] + "\x7f"
    with zipfile.ZipFile(raw, "w") as archive:
        for entry in [*members, (other, content[::-1])]:
            archive.writestr(*entry)
    weights_of(folder).write_bytes(raw.getvalue().replace(other.encode(), name.encode()))
    return f"two entries '{name}'", "refused"


def _bomb(folder: Path, rng: Random) -> Made:
    members = _members(folder)
    if members is None:
        return None
    zeros = b"\0" * rng.choice((10**6, 10**7))
    members = [(n, zeros if n.endswith("data/0") else c) for n, c in members] if rng.random() < 0.5 else members
    _write(folder, members, compression=rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    return "compressed entries", "oracle"


def _calls(folder: Path, rng: Random) -> Made:
    members, tensors = _members(folder), None
    if members is None:
        return None
    tensors = load_tensors(folder)
    call = Calls(folder.parent / "marker")
    protocol = rng.choice((0, 1, 2, 3, 4, 5))
    hidden: tuple[Any, ...] = (call, {"a": call}, {**tensors, "more": call}, [call], OrderedDict(a=call), (call,) * 3)
    value = rng.choice(hidden)
    path = weights_of(folder)
    how = rng.choice(("archive", "torch", "bare", "legacy"))
    if how == "archive":
        program = pickle.dumps(call, protocol=protocol)
        _write(folder, [(n, program if n.endswith("data.pkl") else c) for n, c in members])
    elif how == "bare":
        path.write_bytes(pickle.dumps(call, protocol=protocol))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how == "torch")
    return f"a pickle ({how}) that runs a command", "refused"


def _legacy(folder: Path, rng: Random) -> Made:
    if _members(folder) is None:
        return None
    del rng
    torch.save(load_tensors(folder), weights_of(folder), _use_new_zipfile_serialization=False)
    return "written as torch did before version 1.6", "oracle"


def _other_content(folder: Path, rng: Random) -> Made:
    if _members(folder) is None:
        return None
    tensors = load_tensors(folder)
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    odd: tuple[tuple[str, Any], ...] = (
        ("a list", list(tensors.values())), ("a number", 7), ("one tensor", value), ("words", "text"),
        ("tensors in a dictionary", {"state_dict": tensors}), ("a number among tensors", tensors | {"epoch": 3}),
        ("a number as a key", {**tensors, 3: value}), ("None", None),
        ("a sparse tensor", tensors | {name: value.to_sparse()}),
        ("a layer", torch.nn.Linear(2, 2)), ("a wide view", tensors | {name: value.flatten()[:1].expand(2**40)}),
        ("complex numbers", tensors | {name: value.to(torch.complex64)}),
    )  # fmt: skip
    what, made = rng.choice(odd)
    torch.save(made, weights_of(folder))
    return what, "refused"


def _other_storage(folder: Path, rng: Random) -> Made:
    """The same tensors as views: strided, sharing one storage, as parameters, or in an ordered dictionary."""
    if _members(folder) is None:
        return None
    tensors = load_tensors(folder)
    whole = torch.cat([value.flatten() for value in tensors.values()])
    starts: dict[str, Tensor] = {}
    reached = 0
    for name, value in tensors.items():
        starts[name] = whole[reached : reached + value.numel()].view(value.shape)
        reached += value.numel()
    forms: tuple[Any, ...] = (
        starts, OrderedDict(tensors), {name: torch.nn.Parameter(value) for name, value in tensors.items()},
        {n: v.T.contiguous().T if v.ndim == 2 else v for n, v in tensors.items()},
    )  # fmt: skip
    torch.save(rng.choice(forms), weights_of(folder))
    return "the same tensors as views or parameters", "same"


PICKLE_MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "archive: bits flipped": (_bits, _bits, _program_bits, _program_bits),
    "archive: names, doubles, bytes around it": (_archive, _archive, _doubled, _appended),
    "archive: compressed or a bomb": (_bomb,),
    "pickle that runs a command": (_calls,),
    "pickle of something else, or an old one": (_other_content, _other_content, _legacy),
    "pickle of the same tensors": (_other_storage,),
}
"""By the family's name in the table."""
