"""Alterations of a module's tensors, in whichever format they lie."""

from pathlib import Path
from random import Random

import torch
from tests.corpus.case import Expectation, Mutation
from torch import Tensor

from headstart.testing.oracles.stored import load_tensors, save_tensors

__all__ = ["TENSOR_MUTATIONS"]

Made = tuple[str, Expectation] | None
LARGEST = 1e3
"""Flipped bits that make larger values are drawn again: where a softmax saturates, every function looks alike."""


def _value_bit(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    name = rng.choice(sorted(tensors))
    value = tensors[name].contiguous().clone()
    raw = value.flatten().view(torch.uint8)
    while True:
        place, bit = rng.randrange(len(raw)), 1 << rng.randrange(8)
        raw[place] ^= bit
        if value.isfinite().all() and value.abs().max() <= LARGEST:
            break
        raw[place] ^= bit
    save_tensors(folder, tensors | {name: value})
    return f"bit {bit} of byte {place} of '{name}' flipped", "oracle"


def _one_repeat(folder: Path, rng: Random) -> Made:
    """AdapterHub saves a prefix again under every attention layer."""
    tensors = load_tensors(folder)
    repeated = [name for name in sorted(tensors) if ".prefix_tunings." in name]
    if not repeated:
        return None
    name = rng.choice(repeated)
    value = tensors[name].clone()
    value.view(-1)[rng.randrange(value.numel())] += rng.choice((1e-6, 0.5, -3.0))
    if value.equal(tensors[name]):
        return None
    save_tensors(folder, tensors | {name: value})
    return f"'{name}' differs from its repeats", "refused"


def _not_finite(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    name = rng.choice(sorted(tensors))
    value, odd = tensors[name].clone(), rng.choice(("nan", "inf", "-inf"))
    value.view(-1)[rng.randrange(value.numel())] = float(odd)
    save_tensors(folder, tensors | {name: value})
    return f"{odd} in '{name}'", "refused"


def _renamed(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    name = rng.choice(sorted(tensors))
    changes = (
        name + ".default", name[1:], name.upper(), name.replace(".0.", ".7."), name.replace("weight", "weigth"),
        "../" + name, name + "\x00", name + "\n", "", "x" * 5000, name.replace("e", "е"), "\x1b[31m" + name,
        name.replace(".", "/"), name + " ", name.replace(".0.", ".00."), name.replace(".0.", ".٠."),
        name.replace(".0.", f".{'9' * 5000}."), f"module.{name}",
    )  # fmt: skip
    new = rng.choice([change for change in changes if change not in tensors])
    save_tensors(folder, {new if key == name else key: value for key, value in tensors.items()})
    return f"'{name}' renamed to {new[:80]!r}", "refused"


def _missing(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    name = rng.choice(sorted(tensors))
    if len(tensors) == 1:
        return None
    save_tensors(folder, {key: value for key, value in tensors.items() if key != name})
    # PEFT saves a copy of the backbone's own weight beside adapted embeddings, and can do without.
    return f"'{name}' left out", "oracle" if name.endswith(".base_layer.weight") else "refused"


def _layer_missing(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    part = rng.choice((".0.", ".1.", "decoder.", "q", "v", "layer.1"))
    kept = {key: value for key, value in tensors.items() if part not in key}
    if not kept or len(kept) == len(tensors):
        return None
    save_tensors(folder, kept)
    return f"all {len(tensors) - len(kept)} tensors with {part!r} left out", "refused"


def _extra(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    name = rng.choice(sorted(tensors))
    other = rng.choice((name.replace(".1.", ".9."), name + ".more", "lm_head.weight", "base_model.model.x.weight"))
    if other in tensors:
        return None
    save_tensors(folder, tensors | {other: tensors[name].clone()})
    return f"a tensor {other!r} more", "refused"


def _swapped_names(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    if len(tensors) < 2:
        return None
    one, two = rng.sample(sorted(tensors), 2)
    save_tensors(folder, tensors | {one: tensors[two], two: tensors[one]})
    return f"'{one}' and '{two}' exchanged", "oracle"


def _transposed(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    two = [name for name, value in sorted(tensors.items()) if value.ndim == 2]
    if not two:
        return None
    name = rng.choice(two)
    save_tensors(folder, tensors | {name: tensors[name].T.contiguous() if rng.random() < 0.5 else tensors[name].T})
    return f"'{name}' transposed", "oracle"


def _reshaped(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    forms = (value[None], value[..., None], value.flatten(), value[:1], value[:0], value[..., :-1], value.repeat(2, 1))
    made = rng.choice([form for form in forms if form.shape != value.shape])
    save_tensors(folder, tensors | {name: made.contiguous()})
    return f"'{name}' of shape {tuple(value.shape)} made {tuple(made.shape)}", "refused"


def _float_type(folder: Path, rng: Random) -> Made:
    tensors, kind = load_tensors(folder), rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.float32))
    chosen = sorted(tensors) if rng.random() < 0.5 else [rng.choice(sorted(tensors))]
    save_tensors(folder, tensors | {name: tensors[name].to(kind) for name in chosen})
    return f"{len(chosen)} tensors as {kind}", "oracle"


def _other_type(folder: Path, rng: Random) -> Made:
    tensors = load_tensors(folder)
    kind = rng.choice((torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64,
                       torch.float8_e4m3fn))  # fmt: skip
    name = rng.choice(sorted(tensors))
    save_tensors(folder, tensors | {name: tensors[name].to(kind)})
    return f"'{name}' as {kind}", "refused"


def _none(folder: Path, rng: Random) -> Made:
    del rng
    kept: dict[str, Tensor] = {}
    save_tensors(folder, kept)
    return "no tensors at all", "refused"


TENSOR_MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "a bit of a value flipped": (_value_bit, _value_bit, _value_bit),
    "one repeat of a tensor altered": (_one_repeat,),
    "NaN or infinity planted": (_not_finite,),
    "key renamed": (_renamed, _renamed),
    "keys missing": (_missing, _layer_missing, _none),
    "key too many": (_extra,),
    "keys exchanged": (_swapped_names,),
    "transposed, reshaped or cut": (_transposed, _reshaped),
    "another type": (_float_type, _other_type),
}
"""By the family's name in the table."""
