"""Alterations of a .safetensors file, byte by byte."""

import json
from pathlib import Path
from random import Random
from typing import Any

from tests.corpus.case import Expectation, Mutation

from headstart.testing.oracles.stored import raw_header, weights_of, write_raw

__all__ = ["HEADER_MUTATIONS"]

Made = tuple[str, Expectation] | None
HUGE = (2**31, 2**40, 2**62, 2**63, 2**64, 10**30)


def _tensors(header: dict[str, Any]) -> list[str]:
    return sorted(name for name in header if name != "__metadata__")


def _header_bit(folder: Path, rng: Random) -> Made:
    if raw_header(folder) is None:
        return None
    path = weights_of(folder)
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    place, bit = (rng.randrange(8) if rng.random() < 0.1 else rng.randrange(8, end)), 1 << rng.randrange(8)
    content[place] ^= bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place} flipped", "oracle"


def _several_bits(folder: Path, rng: Random) -> Made:
    if raw_header(folder) is None:
        return None
    path = weights_of(folder)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(2, 20)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return "several bits flipped anywhere", "oracle"


def _cut(folder: Path, rng: Random) -> Made:
    path = weights_of(folder)
    content = path.read_bytes()
    length = rng.choice((0, 1, 7, 8, 9, len(content) - 1, *(rng.randrange(len(content)) for _ in range(6))))
    path.write_bytes(content[:length])
    return f"cut to {length} of {len(content)} bytes", "refused"


def _appended(folder: Path, rng: Random) -> Made:
    if raw_header(folder) is None:
        return None
    with weights_of(folder).open("ab") as stream:
        count = stream.write(rng.randbytes(rng.randrange(1, 200)))
    return f"{count} bytes appended", "refused"


def _doubled(folder: Path, rng: Random) -> Made:
    found = raw_header(folder)
    if found is None:
        return None
    header, data = found
    name = rng.choice(_tensors(header))
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[rng.choice(_tensors(header))])}}}"
    write_raw(folder, text.encode(), data)
    return f"key '{name}' twice", "refused"


def _shape(folder: Path, rng: Random) -> Made:
    found = raw_header(folder)
    if found is None:
        return None
    header, data = found
    name = rng.choice(_tensors(header))
    old = header[name]["shape"]
    forms: tuple[list[Any], ...] = (
        old[::-1], [*old, 1], [1, *old], old[:-1], [-size for size in old], [float(size) for size in old],
        [str(size) for size in old], [size + 1 for size in old], [True for _ in old], [0, *old], [1] * 40 + old,
        [rng.choice(HUGE) for _ in old], [rng.choice(HUGE)] * 3,
    )  # fmt: skip
    header[name]["shape"] = rng.choice([form for form in forms if form != old] if old != old[::-1] else forms[3:])
    write_raw(folder, header, data)
    return f"'{name}' of shape {old} states {str(header[name]['shape'])[:60]}", "oracle"


def _offsets(folder: Path, rng: Random) -> Made:
    found = raw_header(folder)
    if found is None:
        return None
    header, data = found
    name = rng.choice(_tensors(header))
    begin, end = header[name]["data_offsets"]
    other = header[rng.choice(_tensors(header))]["data_offsets"]
    forms: tuple[Any, ...] = (
        [end, begin], [begin + 4, end + 4], [begin - 4, end - 4], [begin, rng.choice(HUGE)], [-1, end], [begin], None,
        [float(begin), float(end)], [begin, end, end], [rng.choice(HUGE), rng.choice(HUGE)], [str(begin), str(end)],
        other if other != [begin, end] else [begin, end + 1],
    )  # fmt: skip
    header[name]["data_offsets"] = rng.choice(forms)
    write_raw(folder, header, data)
    return f"'{name}' at {[begin, end]} states {str(header[name]['data_offsets'])[:60]}", "refused"


def _label(folder: Path, rng: Random) -> Made:
    found = raw_header(folder)
    if found is None:
        return None
    header, data = found
    name = rng.choice(_tensors(header))
    old = header[name]["dtype"]
    labels = ("F16", "BF16", "F64", "I32", "U32", "I64", "BOOL", "F8_E4M3", "C64", "f32", "", None, 7, "F4", "U8")
    header[name]["dtype"] = rng.choice([label for label in labels if label != old])
    write_raw(folder, header, data)
    return f"'{name}' of {old} states {header[name]['dtype']!r}", "oracle"


def _entry(folder: Path, rng: Random) -> Made:
    found = raw_header(folder)
    if found is None:
        return None
    header, data = found
    name = rng.choice(_tensors(header))
    forms: tuple[Any, ...] = (
        None, [], "F32", {}, header[name] | {"more": 1}, {k: v for k, v in header[name].items() if k != "dtype"},
    )  # fmt: skip
    header[name] = rng.choice(forms)
    write_raw(folder, header, data)
    return f"the entry of '{name}' is {str(header[name])[:60]}", "refused"


def _not_a_header(folder: Path, rng: Random) -> Made:
    found = raw_header(folder)
    if found is None:
        return None
    header, data = found
    text = json.dumps(header).encode()
    forms = (
        b"[]", b"null", b"7", b"", b"{", text[:-1], b"\xff\xfe" + text, b"[" * 100_000, b'{"a":' * 50_000,
        text.replace(b'"', b"'"), text + text, b"NaN", text.decode().encode("utf-16"), b'{"a":1' + b"0" * 10_000 + b"}",
        text.replace(b"[", b"[1" + b"0" * 5000 + b",", 1),
    )  # fmt: skip
    made = rng.choice(forms)
    write_raw(folder, made, data)
    return f"the header is {made[:30]!r}…", "refused"


def _length(folder: Path, rng: Random) -> Made:
    found = raw_header(folder)
    if found is None:
        return None
    header, data = found
    real = len(json.dumps(header))
    claimed = rng.choice((0, 1, real - 1, real + 1, 10**8, 10**9, 2**32, 2**62, 2**64 - 1))
    write_raw(folder, header, data, length=claimed)
    return f"a header of {real} bytes claims {claimed}", "refused"


def _rewritten(folder: Path, rng: Random) -> Made:
    """Another way to write the same: order, spaces, metadata."""
    found = raw_header(folder)
    if found is None:
        return None
    header, data = found
    order = _tensors(header)
    rng.shuffle(order)
    parts, placed = {}, b""
    for name in order:
        begin, end = header[name]["data_offsets"]
        offsets = [len(placed), len(placed) + end - begin]
        placed += data[begin:end]
        parts[name] = header[name] | {"data_offsets": offsets}
    names = sorted(parts) if rng.random() < 0.5 else order
    notes: tuple[dict[str, Any], ...] = (
        {},
        {"__metadata__": {"format": "pt", "note": "x" * 300}},
        {"__metadata__": {}},
    )
    text = json.dumps(rng.choice(notes) | {name: parts[name] for name in names}, indent=rng.choice((None, 2)))
    write_raw(folder, (text + " " * rng.randrange(64)).encode(), placed)
    return "written in another order, with other spaces and metadata", "same"


HEADER_MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "bits of the file flipped": (_header_bit, _header_bit, _header_bit, _several_bits),
    "file cut short": (_cut,),
    "bytes appended": (_appended,),
    "key twice in the header": (_doubled,),
    "shape in the header": (_shape, _shape),
    "offsets in the header": (_offsets,),
    "type in the header": (_label,),
    "header malformed": (_entry, _not_a_header, _length),
    "written in another way": (_rewritten,),
}
"""By the family's name in the table."""
