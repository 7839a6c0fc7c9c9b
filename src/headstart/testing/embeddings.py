"""The conformance suite of embeddings: does one keep the contract? For Headstart's own and for those of plug-ins."""

import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from headstart.backbones import Backbone
from headstart.embeddings import Embedding, Subject, make_embedding
from headstart.embeddings.arrays import Array
from headstart.errors import HeadstartError
from headstart.kinds import History, Module, fresh_module, load_module, save_module
from headstart.tasks import Example
from headstart.testing.backbones import tiny_backbone
from headstart.testing.case import Aside, Outcome, Result, Violation

__all__ = ["EMBEDDING_CHECKS", "check_embedding"]

KINDS = ("lora", "bitfit", "prefix")
"""Those of Zhou et al., 2022, whose modules a subject holds together."""

BACKBONE = "gpt2"
"""It has bias terms, and caches keys."""

Case = tuple[Embedding, Subject]


def check_embedding(embedding: str | Embedding, *, kinds: Collection[str] = KINDS) -> list[Outcome]:
    """Check an embedding on modules of some kinds on a tiny backbone; seconds.

    Each module has a card with a number of rows, a history with losses and an early state, modules of the other kinds
    beside it and a few rows of a task, so that an embedding may read whatever it needs. One that is not defined for a
    kind has the outcome "refused", with its own reason.

    Args:
        embedding: its spec, or itself.
        kinds: of the modules.

    Returns:
        One outcome for every kind and check, in the order of `EMBEDDING_CHECKS`.

    Raises:
        SettingError: an unknown embedding or kind.
    """
    made, backbone = make_embedding(embedding), tiny_backbone(BACKBONE)
    found = []
    for kind in kinds:
        subject = _subject(kind, backbone)
        for check, run in EMBEDDING_CHECKS.items():
            result, detail = _outcome(run, (made, subject))
            found.append(Outcome(kind, BACKBONE, check, result, detail))
            if result == "refused":
                break
    return found


def _is_a_vector(case: Case) -> None:
    embedding, subject = case
    try:
        values = embedding.of(subject)
    except HeadstartError as error:
        raise Aside("refused", str(error)) from error
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not len(values):
        raise Violation("`of` must return one row of numbers, a NumPy array (D,)")
    if values.dtype != np.float64 or not np.isfinite(values).all():
        raise Violation("its numbers must be finite and float64")


def _repeats(case: Case) -> None:
    embedding, subject = case
    _require_equal(embedding.of(subject), embedding.of(subject), "the same module has another vector each time")


def _does_not_read_names(case: Case) -> None:
    embedding, subject = case
    other = replace(subject.module, card=subject.module.card.model_copy(update={"name": "another", "notes": "other"}))
    _require_equal(
        embedding.of(subject), embedding.of(replace(subject, module=other)), "the vector depends on the module's name"
    )


def _survives_the_disk(case: Case) -> None:
    embedding, subject = case
    with tempfile.TemporaryDirectory() as folder:
        save_module(subject.module, Path(folder) / "module")
        loaded = load_module(Path(folder) / "module")
    _require_equal(
        embedding.of(subject), embedding.of(replace(subject, module=loaded)), "a saved module has another vector"
    )


def _is_most_similar_to_itself(case: Case) -> None:
    embedding, subject = case
    if embedding.ranks_alone:
        raise Aside("skipped", "it ranks without a query")
    values = embedding.of(subject)
    draw = np.random.default_rng(0)
    others = np.stack([values, values + draw.normal(size=values.shape) * np.abs(values).max(), 2 * values])
    found = embedding.similarities(values, others)
    if found.shape != (3,) or not found[0] >= np.nanmax(found) - 1e-9:
        raise Violation("`similarities` must give one number for each vector, the highest to the query itself")


def _is_its_spec(case: Case) -> None:
    embedding, _ = case
    if make_embedding(str(embedding.spec)) != embedding:
        raise Violation(f"its spec '{embedding.spec}' does not name it; is it registered?")


EMBEDDING_CHECKS: dict[str, Callable[[Case], None]] = {
    "vector": _is_a_vector,
    "repeats": _repeats,
    "names": _does_not_read_names,
    "disk": _survives_the_disk,
    "itself": _is_most_similar_to_itself,
    "spec": _is_its_spec,
}
"""The checks by name."""


def _outcome(run: Callable[[Case], None], case: Case) -> tuple[Result, str]:
    try:
        run(case)
    except Aside as aside:
        return aside.result, str(aside)
    except Violation as violation:
        return "failed", str(violation)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    return "passed", ""


def _require_equal(one: Array, other: Array, fault: str) -> None:
    if one.shape != other.shape or not np.allclose(one, other, rtol=1e-6, atol=1e-9):
        raise Violation(fault)


def _subject(kind: str, backbone: Backbone) -> Subject:
    modules = {each: _module(each, backbone, seed=seed) for seed, each in enumerate(dict.fromkeys((kind, *KINDS)))}
    rows = [Example("a warm and funny film", ("positive",)), Example("a dull mess", ("negative",))]
    others = [module for each, module in modules.items() if each != kind][: len(KINDS) - 1]
    return Subject(modules[kind], others, rows, backbone)


def _module(kind: str, backbone: Backbone, *, seed: int) -> Module:
    draw = torch.Generator().manual_seed(seed)
    fresh = fresh_module(kind, backbone, {}, name=kind, seed=seed)
    values = {
        name: value + torch.randn(value.shape, generator=draw) * 0.1 for name, value in fresh.parameters().items()
    }
    card = fresh.card.model_copy(update={"train_rows": 100, "task": "reviews"})
    early = {name: value / 2 for name, value in values.items()}
    return replace(fresh.with_parameters(values), card=card, history=History(((5, 3.0), (10, 2.0)), early, 5))
