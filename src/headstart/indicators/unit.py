"""Scoring as units of work, one for each module and indicator, and their results as one table again."""

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import pandas as pd

from headstart.backbones import Backbone, BackboneInput, TextFormat
from headstart.backbones.load import load_of, tokens_of
from headstart.backbones.source import RESOURCE
from headstart.errors import HeadstartError, ModuleError, SettingError
from headstart.formats import StoredModule
from headstart.indicators.contract import RUNS, AfterSteps, Need, Trial
from headstart.indicators.engine import score_table
from headstart.indicators.parsing import make_indicator
from headstart.indicators.table import COLUMNS, WHOLE, ScoreTable
from headstart.kinds import AnyModule, LazyModule, Module, StoredSource
from headstart.kinds.unit import given_module
from headstart.tasks import Example
from headstart.units import Content, Context, Load, Result, Unit
from headstart.units.canonical import digest_of
from headstart.units.unit import Found, alone

__all__ = ["ScoreUnit", "scored_together", "table_of"]

KEPT = ("part", "example", "value", "tokens", "reason")
"""The columns of a score table that a unit keeps; the module's name does not count, and the indicator is an input."""

AMONG = "among"
"""Under which a module that cannot be read is recorded if it is among those that the scored ones are compared with."""
MOST_PROJECTED = 8192
"""How many units of projection indicators are computed together at most."""


@dataclass(frozen=True, eq=False)
class ScoreUnit(Unit):
    """The values of one module by one indicator on examples, before any reduction.

    `indicator`: the canonical spec. `reference`: the module that was tuned on the task, or the unit that tunes it;
    `None` if neither the indicator nor the backbone needs one, so that the values do not depend on the reference.
    `trial`: the unit that tunes the module for some steps, if the indicator needs that, or why it cannot be tuned.
    `among`: the modules that are scored together, if the module's value depends on the others. `options`: the digest of
    all right answers and options, if the indicator reads more than inputs and first targets; one run scores the same
    inputs with the same options only, so that all indicators share a pass.
    """

    type: ClassVar[str] = "score"
    together: ClassVar[int] = 256

    backbone: BackboneInput
    module: AnyModule
    examples: Content[Sequence[Example]]
    indicator: str
    text_format: TextFormat
    reference: Module | Unit | None = None
    trial: Unit | str | None = None
    among: Content[Sequence[AnyModule]] | None = None
    options: str = ""

    @property
    def label(self) -> str:
        """Which indicator scores which module."""
        return f"{self.indicator} of {self.module.name}"

    @property
    def versions(self) -> dict[str, int]:
        """The indicator's, and those of what it uses."""
        indicator = make_indicator(self.indicator)
        found = {f"indicator {indicator.name}": indicator.version, **indicator.versions}
        # Spans beyond what is read of an input counted as wrong answers once. Only encoders, which need a reference to
        # answer, find spans, and only rows like these have them.
        spans = self.reference is not None and all(
            not row.options and row.target in row.input for row in self.examples.value
        )
        return {**found, "spans": 2} if spans else found

    @property
    def most_together(self) -> int:
        """One pass of the bare backbone serves any number of modules."""
        return MOST_PROJECTED if self._bare else self.together

    @property
    def _bare(self) -> bool:
        return Need.BASE_PASS in make_indicator(self.indicator).needs

    def load(self, context: Context) -> Load:
        """One pass over the examples, which all indicators of a module share; a pass of the bare one, all modules.

        Nothing is read for what compares parameters, or results of tunings, which are units of their own.
        """
        backbone: Backbone = context.resource(RESOURCE)
        needs = make_indicator(self.indicator).needs
        if not needs & (RUNS | {Need.BASE_PASS}):
            return Load(device=backbone.device.type)
        tokens = tokens_of(self.examples.value, backbone, self.text_format)
        back = Need.GRADIENTS in needs
        load = load_of(backbone, forward=0 if back else tokens, both=tokens if back else 0)
        return replace(load, shared=("" if self._bare else self.module.digest(), self.examples.digest()))

    @classmethod
    def pace_of(cls, inputs: Mapping[str, Any]) -> Hashable:
        """What is computed with the module; `None` for an indicator of a plug-in that is no longer there."""
        try:
            return make_indicator(inputs["indicator"]).needs & (RUNS | {Need.BASE_PASS})
        except SettingError:
            return None

    def batch_key(self) -> Hashable:
        """Modules are scored together on the same examples, by all indicators in one pass."""
        reference = None if self.reference is None else self.reference.digest()
        among = None if self.among is None else self.among.digest()
        return (self.backbone, self.examples.digest(), self.text_format, reference, self._bare, among)

    def compute(self, context: Context) -> Result:
        """Score this module alone."""
        return alone(self, context)

    @classmethod
    def compute_many(cls, units: Sequence[Self], context: Context) -> Iterator[Found]:
        """Score modules in one pass; those with the same indicators go together."""
        of_module: dict[str, list[Self]] = {}
        for unit in units:
            of_module.setdefault(unit.module.digest(), []).append(unit)
        alike: dict[frozenset[str], list[list[Self]]] = {}
        for members in of_module.values():
            alike.setdefault(frozenset(unit.indicator for unit in members), []).append(members)
        for groups in alike.values():
            yield from _scored(groups, context)


def scored_together(modules: Sequence[AnyModule]) -> Content[Sequence[AnyModule]]:
    """Modules as an input of a unit; their order and names do not count."""
    return Content(tuple(modules), digest_of(sorted(module.digest() for module in modules)))


def table_of(
    units: Mapping[tuple[str, str], ScoreUnit],
    results: Mapping[str, Result],
    failed: Mapping[str, HeadstartError],
    *,
    modules: Sequence[str],
    indicators: Sequence[str],
) -> ScoreTable:
    """The table of all `units`, whose keys are (module, indicator); failed units give missing values and reasons."""
    frames, tokens, examples = [], 0, 0
    for indicator in indicators:
        for module in modules:
            unit = units[module, indicator]
            if unit.key in results:
                rows: list[dict[str, Any]] = [dict(row) for row in results[unit.key].rows]
                facts = results[unit.key].facts
                tokens, examples = max(tokens, facts["tokens"]), facts["examples"]
            else:
                reason = str(failed[unit.key].__cause__)
                rows = [{"part": WHOLE, "example": -1, "value": None, "tokens": 0, "reason": reason}]
            frames += [{"module": module, "indicator": indicator, **row} for row in rows]
    frame = pd.DataFrame(frames, columns=list(COLUMNS)).astype(COLUMNS)
    return ScoreTable(frame, tuple(modules), tuple(indicators), examples, tokens)


def _scored(groups: Sequence[Sequence[ScoreUnit]], context: Context) -> Iterator[Found]:
    """The results of modules with the same indicators; `groups` holds the units of each module."""
    backbone: Backbone = context.resource(RESOURCE)
    first = groups[0][0]
    unreadable: dict[str, ModuleError] = {}
    # Users choose names, so two modules with the same name may meet here.
    modules = [_called(members[0].module, str(index), unreadable) for index, members in enumerate(groups)]
    trials = {
        (str(index), indicator.m): _trial(unit.trial, context)
        for index, members in enumerate(groups)
        for unit in members
        if unit.trial is not None and isinstance(indicator := make_indicator(unit.indicator), AfterSteps)
    }
    among = None if first.among is None else [_noted(module, AMONG, unreadable) for module in first.among.value]
    began = time.monotonic()
    table = score_table(
        modules, first.examples.value, backbone, indicators=[unit.indicator for unit in groups[0]],
        reference=given_module(first.reference, context), trials=trials, text_format=first.text_format,
        among=among, progress=context.listener,
    )  # fmt: skip
    seconds = (time.monotonic() - began) / sum(map(len, groups))
    found = _rows_of(table)
    for index, members in enumerate(groups):
        for unit in members:
            error = unreadable.get(str(index)) or unreadable.get(AMONG)
            if error is not None:
                yield unit, error
                continue
            facts, kept = {"examples": table.examples, "tokens": table.tokens}, found[str(index), unit.indicator]
            yield unit, Result(facts, kept, device=str(backbone.device), seconds=seconds)


def _trial(given: Unit | str, context: Context) -> Trial | str:
    """What the tuning of a module gave, or why it cannot be tuned."""
    if isinstance(given, str):
        return given
    result, module = context.result(given), given_module(given, context)
    assert module is not None
    return Trial(module, before=result.rows[0]["dev_score"], best=result.facts["dev_score"])


def _rows_of(table: ScoreTable) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What each unit keeps, by (module, indicator), from one sweep over the table; `None` is missing."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    columns = [table.rows[name].tolist() for name in ("module", "indicator", *KEPT)]
    for module, indicator, *values in zip(*columns, strict=True):
        kept = {name: None if value != value else value for name, value in zip(KEPT, values, strict=True)}
        found.setdefault((module, indicator), []).append(kept)
    return found


def _called(module: AnyModule, name: str, unreadable: dict[str, ModuleError]) -> AnyModule:
    """The module under another name; if it cannot be read, that is recorded, because it is not a result to keep."""
    return replace(_noted(module, name, unreadable), card=module.card.model_copy(update={"name": name}))


def _noted(module: AnyModule, name: str, unreadable: dict[str, ModuleError]) -> AnyModule:
    if not isinstance(module, LazyModule):
        return module
    return replace(module, source=_Noted(module.source, name, unreadable))


@dataclass(frozen=True)
class _Noted:
    """A source of a module that records why the module cannot be read."""

    source: StoredSource
    name: str
    unreadable: dict[str, ModuleError]

    @property
    def card(self) -> Any:
        return self.source.card

    @property
    def digest(self) -> str:
        return self.source.digest

    def read(self) -> StoredModule:
        try:
            return self.source.read()
        except ModuleError as error:
            self.unreadable[self.name] = error
            raise
