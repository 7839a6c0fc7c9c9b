"""The conformance suite of indicators: for Headstart's own and for those of plug-ins."""

import math
import re
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from headstart.backbones import Backbone
from headstart.indicators import AfterSteps, Indicator, Need, Trial, make_indicator
from headstart.indicators.engine import FAMILIES, score_table
from headstart.indicators.table import WHOLE, ScoreTable
from headstart.kinds import Module
from headstart.registry import Registry
from headstart.specs import Spec
from headstart.tasks import Example
from headstart.testing.backbones import tiny_backbone
from headstart.testing.case import LABELS, Case, Outcome, Result, Violation, require

__all__ = ["INDICATOR_CHECKS", "check_indicator"]

WITHIN = 1e-3
"""How far apart values may be that should be equal, as a fraction of the largest value (at least 1)."""
TEXTS = ("a warm film", "dull", "it never comes to life", "superb", "tired and dull", "the acting is a delight")
MIXED = ("ia3", "adapter", "prefix")
"""Kinds beside LoRA; an indicator need not be defined for them, but must say so."""


@dataclass
class _Case:
    """One indicator on one backbone: `modules` are LoRA modules of two ranks, `mixed` modules of other kinds."""

    indicator: Indicator
    backbone: Backbone
    folder: Path

    @cached_property
    def modules(self) -> list[Module]:
        return [self._module("lora", seed, rank=1 + seed % 2) for seed in (1, 2, 3)]

    @cached_property
    def mixed(self) -> list[Module]:
        return [self._module(kind, seed) for seed, kind in enumerate(MIXED, start=11)]

    @cached_property
    def reference(self) -> Module:
        return self._module("lora", 4, rank=2)

    @cached_property
    def examples(self) -> list[Example]:
        answers = LABELS.labels[:2]
        return [Example(text, (answers[number % 2],), answers) for number, text in enumerate(TEXTS)]

    def _module(self, kind: str, seed: int, **shape: int) -> Module:
        module = Case(kind, self.backbone, self.folder, shape=shape).module(seed)
        return replace(module, card=module.card.model_copy(update={"name": f"{kind}-{seed}"}))

    def table(
        self, modules: Sequence[Module], examples: Sequence[Example] | None = None, *, budget: int | None = None
    ) -> ScoreTable:
        """The scores; what tuning would make of a module is the module with parameters a little larger."""
        steps = self.indicator.m if isinstance(self.indicator, AfterSteps) else 0
        trials = {
            (module.name, steps): Trial(
                module.with_parameters({name: 1.1 * value for name, value in module.parameters().items()}), 0.25, 0.5
            )
            for module in modules
        }
        return score_table(
            modules, self.examples if examples is None else examples, self.backbone, indicators=[self.indicator],
            reference=self.reference, trials=trials, budget=budget,
        )  # fmt: skip

    @cached_property
    def usual(self) -> ScoreTable:
        """The scores of the LoRA modules on the examples."""
        return self.table(self.modules)

    def values(self, table: ScoreTable) -> dict[str, float]:
        """The mean by module."""
        found = table.reduce()
        return dict(zip(found.names, found.values[str(self.indicator.spec)], strict=True))


Check = Callable[[_Case], None]


def _declares_what_it_is(case: _Case) -> None:
    one, family = case.indicator, type(case.indicator)
    require(isinstance(one, FAMILIES), f"it is none of {', '.join(base.__name__ for base in FAMILIES)}")
    require(bool(re.search(r"\b(19|20)\d\d\b", one.source)) or "illustration" in one.source, "its source has no year")
    require(bool(one.needs) and all(isinstance(need, Need) for need in one.needs), "needs is no set of Need")
    require(Need.TUNING not in one.needs or isinstance(one, AfterSteps), "it needs tuning and is no AfterSteps")
    require(bool(family.__doc__), "it has no docstring")
    require(all(own.default is not MISSING for own in fields(one)), "a field has no default")
    require(make_indicator(family().spec) == family(), "the spec of its defaults gives another indicator")
    require(make_indicator(Spec.parse(str(one.spec))) == one, f"{one.spec} gives another indicator")
    require(hash(make_indicator(one.spec)) == hash(one), "equal indicators have different hashes")


def _has_a_value_or_a_reason(case: _Case) -> None:
    table = case.table([*case.modules, *case.mixed])
    for name in table.modules:
        rows = table.rows[(table.rows["module"] == name) & (table.rows["part"] == WHOLE)]
        require(len(rows) > 0, f"'{name}' has neither a value nor a reason")
        require(
            bool((rows["value"].notna() ^ rows["reason"].notna()).all()), f"'{name}' has a row without value and reason"
        )
    found = case.values(table)
    plain = [found[module.name] for module in case.modules]
    require(any(map(math.isfinite, plain)), f"no LoRA module has a value: {next(iter(table.reasons().values()), {})}")


def _does_not_depend_on_company(case: _Case) -> None:
    together = case.values(case.usual)
    for module in case.modules:
        _same(case.values(case.table([module])), {module.name: together[module.name]}, "alone")


def _does_not_depend_on_the_order(case: _Case) -> None:
    expected = case.values(case.usual)
    _same(case.values(case.table(case.modules[::-1])), expected, "with the modules in another order")
    _same(case.values(case.table(case.modules, case.examples[::-1])), expected, "with the examples in another order")


def _does_not_depend_on_batches(case: _Case) -> None:
    expected = case.values(case.usual)
    for budget in (1, 40):
        _same(case.values(case.table(case.modules, budget=budget)), expected, f"in passes of {budget} tokens")


def _is_equal_for_equal_modules(case: _Case) -> None:
    module = case.modules[0]
    copy = replace(module, card=module.card.model_copy(update={"name": "copy"}))
    found = case.values(case.table([module, copy]))
    _same({"copy": found[module.name]}, {"copy": found["copy"]}, "of an equal module")


def _tells_modules_apart(case: _Case) -> None:
    if isinstance(case.indicator, AfterSteps):
        return  # what is compared here comes from the caller
    table = case.usual.rows
    rows = [tuple(table[table["module"] == module.name]["value"]) for module in case.modules]
    require(len(set(rows)) > 1 or all(value == 1 or value == 0 for row in rows for value in row), "all are equal")


def _leaves_no_trace(case: _Case) -> None:
    before = {name: value.clone() for name, value in case.backbone.model.state_dict().items()}
    case.table(case.modules)
    now = case.backbone.model.state_dict()
    require(now.keys() == before.keys(), "a layer came or went")
    require(all(torch.equal(now[name], value) for name, value in before.items()), "a weight of the backbone changed")
    hooked = [n for n, layer in case.backbone.model.named_modules() if layer._forward_hooks or layer._forward_pre_hooks]
    require(not hooked, f"hooks are left on {', '.join(hooked)}")


def _values_of_rows_stand_alone(case: _Case) -> None:
    if not case.indicator.by_row:
        return
    whole = case.usual.rows
    whole = whole[whole["part"] == WHOLE]
    require(bool((whole["example"] >= 0).all()), "by_row is set, and there is a value for all examples together")
    some = [4, 1]
    part = case.table(case.modules, [case.examples[index] for index in some]).rows
    part = part[(part["part"] == WHOLE) & part["value"].notna()]
    expected = dict(zip(zip(whole["module"], whole["example"], strict=True), whole["value"], strict=True))
    for name, example, value in zip(part["module"], part["example"], part["value"], strict=True):
        _same({name: value}, {name: expected[name, some[example]]}, "of a row among fewer rows")


INDICATOR_CHECKS: Registry[Check] = Registry("check of indicators")
for _name, _check in {
    "declares what it is": _declares_what_it_is,
    "value or reason": _has_a_value_or_a_reason,
    "company": _does_not_depend_on_company,
    "order": _does_not_depend_on_the_order,
    "batches": _does_not_depend_on_batches,
    "equal modules": _is_equal_for_equal_modules,
    "tells modules apart": _tells_modules_apart,
    "leaves no trace": _leaves_no_trace,
    "rows stand alone": _values_of_rows_stand_alone,
}.items():
    INDICATOR_CHECKS.add(_name, _check)


def check_indicator(
    indicator: str | Spec | Indicator,
    *,
    backbones: Sequence[str] = ("llama", "bert"),
    checks: Collection[str] | None = None,
) -> list[Outcome]:
    """Run every check on an indicator, on tiny random backbones, without a network.

    The checks are of what holds for every indicator: that it says what it is, has a value or a reason for every module
    of every kind, does not depend on which modules or examples are computed together and in which order, and leaves the
    backbone as it was. Only numbers worked by hand can tell whether higher values are better, and whether the formula
    is that of its source. Mistakes are not raised: each becomes an outcome "failed".

    Args:
        indicator: a spec or an indicator, one of Headstart's or a plug-in's.
        backbones: names in `headstart.testing.BACKBONES` or `MORE_BACKBONES`.
        checks: names in `INDICATOR_CHECKS`; all if there are none.

    Returns:
        One outcome for every backbone and check, in the order of `INDICATOR_CHECKS`; its `kind` is the spec.

    Raises:
        SettingError: an unknown indicator, parameter or backbone.
    """
    one = make_indicator(indicator)
    found = []
    for name in backbones:
        with tempfile.TemporaryDirectory() as folder:
            case = _Case(one, tiny_backbone(name), Path(folder))
            asked = [check for check in INDICATOR_CHECKS if checks is None or check in checks]
            found += [Outcome(str(one.spec), name, check, *_run(INDICATOR_CHECKS[check], case)) for check in asked]
    return found


def _run(check: Check, case: _Case) -> tuple[Result, str]:
    try:
        check(case)
    except Violation as violation:
        return "failed", str(violation)
    except Exception as error:
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())
    return "passed", ""


def _same(found: dict[str, float], expected: dict[str, float], where: str) -> None:
    """Raise `Violation` unless the modules have the same values, or both have none."""
    largest = max((abs(value) for value in expected.values() if math.isfinite(value)), default=0.0)
    for name, wanted in expected.items():
        if pd.isna(found[name]) and pd.isna(wanted):
            continue
        apart = abs(found[name] - wanted)
        require(apart <= WITHIN * max(1.0, largest), f"the value of '{name}' {where} is {apart:.1e} away")
