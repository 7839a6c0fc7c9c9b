"""Soft prompts whose transfer was measured, read from a folder: the true answer for rules that rank them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headstart.embeddings.prompts import PROMPT_RULES, check_prompts
from headstart.errors import HubError, SettingError
from headstart.ranking.evaluation import RankingEvaluation, evaluate_ranking, popularity
from headstart.statistics.resampling import DRAWS

__all__ = ["MeasuredPrompts", "evaluate_prompt_rules"]

RANDOM = "random"
"""The source that stands for a prompt of random values: what it transfers is the baseline of gains."""


@dataclass(frozen=True, eq=False)
class MeasuredPrompts:
    """Prompts (N, tokens, d) of the tasks `names`, and what each source transfers to each target.

    `transfer`: rows targets, columns sources, NaN for a target's own prompt; `baseline`: by target, what a random
    prompt scores; `own`: by source, its score on its own task. `notes` say who was left out. `sizes`: by source, on how
    many rows it was tuned; `families`: by task; `None` where the folder does not say.
    """

    names: tuple[str, ...]
    prompts: NDArray[np.float64]
    transfer: pd.DataFrame
    baseline: pd.Series
    own: pd.Series
    notes: tuple[str, ...]
    sizes: Mapping[str, float] | None = None
    families: Mapping[str, str] | None = None

    @classmethod
    def read(cls, folder: str | Path, backbone: str) -> "MeasuredPrompts":
        """Read `matrices.json` and `prompt_transfer_BACKBONE.npz`; a task without a prompt is left out.

        Raises `HubError` for a missing or malformed file, `SettingError` for a backbone that is not there.
        """
        matrices, prompts = Path(folder) / "matrices.json", Path(folder) / f"prompt_transfer_{backbone}.npz"
        try:
            content = json.loads(matrices.read_text(encoding="utf-8"))
            measured = content["backbones"]
        except FileNotFoundError:
            raise HubError(f"there is no {matrices}; give the folder that it lies in") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HubError(f"{matrices} cannot be read as measured transfer ({error}); give its folder") from None
        if backbone not in measured:
            raise SettingError(f"{matrices} has no backbone '{backbone}'; choose one of: {', '.join(measured)}")
        try:
            with prompts.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, BadZipFile) as error:
            raise HubError(f"{prompts} cannot be read ({error}); put the prompts there") from None
        try:
            found = measured[backbone]
            whole = pd.DataFrame(found["matrix"], index=found["targets"], columns=found["sources"], dtype="float64")
        except (KeyError, TypeError, ValueError) as error:
            raise HubError(f"{matrices}: the matrix of '{backbone}' is malformed ({error}); correct it") from None
        return cls._of(whole, arrays, {key: found.get(key, content.get(key)) for key in ("sizes", "families")})

    @classmethod
    def _of(
        cls, whole: pd.DataFrame, arrays: dict[str, NDArray[np.floating]], told: Mapping[str, Any]
    ) -> "MeasuredPrompts":
        names = tuple(name for name in whole.columns if name in arrays and name != RANDOM)
        kept = [name for name in whole.index if name in names]
        left = [str(name) for name in [*whole.columns, *whole.index] if name not in names and name != RANDOM]
        notes = [f"{name} has no prompt, so it is left out" for name in dict.fromkeys(left)]
        if not kept or len({arrays[name].shape for name in names}) != 1:
            raise HubError("no target has a prompt, or prompts differ in shape; give prompts of one backbone")
        if RANDOM not in whole:
            notes.append(f"no source is called '{RANDOM}', so gains are taken over 0")
        baseline = whole[RANDOM] if RANDOM in whole else pd.Series(0.0, index=whole.index)
        transfer = whole.loc[kept, list(names)].copy()
        own = pd.Series({name: whole[name].get(name, np.nan) for name in names})
        for name in kept:
            transfer.loc[name, name] = np.nan
        prompts = check_prompts(np.stack([arrays[name] for name in names]))
        return cls(
            names, prompts, transfer, baseline[kept], own, tuple(notes),
            sizes=_by_name(told, "sizes", names, kind=(int, float), what="number of rows"),
            families=_by_name(told, "families", names, kind=str, what="family"),
        )  # fmt: skip

    def predicted(self, rule: str) -> pd.DataFrame:
        """What a rule of `PROMPT_RULES` promises, rows targets and columns sources; it sees the prompts alone."""
        if rule not in PROMPT_RULES:
            raise SettingError(f"unknown rule '{rule}'; choose one of: {', '.join(PROMPT_RULES)}")
        table = pd.DataFrame(PROMPT_RULES[rule](self.prompts), index=list(self.names), columns=list(self.names))
        return table.loc[self.transfer.index]


def _by_name(
    told: Mapping[str, Any], key: str, names: Sequence[str], *, kind: type | tuple[type, ...], what: str
) -> dict[str, Any] | None:
    """What `matrices.json` says of every name under `key`; `None` if it has no such key."""
    given = told[key]
    if given is None:
        return None
    for name in names:
        if not isinstance(given, dict) or not isinstance(given.get(name), kind):
            raise HubError(f"matrices.json: '{key}' has no {what} for '{name}'; add it, or leave out '{key}'")
    return {name: given[name] for name in names}


WITH_TRANSFER = ("popularity", "sign_span+popularity")
"""What also reads the measured transfer of the sources to the other targets, which a hub seldom knows."""


def evaluate_prompt_rules(
    measured: MeasuredPrompts, *, within_families: bool = False, draws: int = DRAWS
) -> RankingEvaluation:
    """Every rule against the measured transfer, beside random, popularity, each source's score on its own task, and on
    how many rows it was tuned if that is known.

    No rule reads the target's measured transfer. Those in `WITH_TRANSFER` read that of the other targets, the rest none
    at all: "sign_span+popularity" adds both as z-scores over the sources. `within_families`: only sources of the
    target's family are candidates; raises `SettingError` if the families are not known.
    """
    if within_families and measured.families is None:
        raise SettingError("matrices.json has no 'families'; add them, by task, or rank across all tasks")
    known = {"own score": measured.own}
    if measured.sizes is not None:
        known["data size"] = pd.Series(measured.sizes, dtype="float64")
    tables = {rule: measured.predicted(rule) for rule in PROMPT_RULES}
    others = popularity(measured.transfer.sub(measured.baseline, axis=0))
    both = _standardized(tables["sign_span"], measured) + _standardized(others, measured)
    return evaluate_ranking(
        tables | {"sign_span+popularity": both}, measured.transfer, baseline=measured.baseline,
        known=known, families=measured.families if within_families else None, draws=draws,
    )  # fmt: skip


def _standardized(table: pd.DataFrame, measured: MeasuredPrompts) -> pd.DataFrame:
    kept = table.where(measured.transfer.notna())
    found: pd.DataFrame = kept.sub(kept.mean(axis=1), axis=0).div(kept.std(axis=1, ddof=0), axis=0)
    return found
