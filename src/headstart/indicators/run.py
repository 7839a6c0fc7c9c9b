"""One run of the engine: the sweeps over all modules, and what each of them writes into the table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headstart.backbones.memory import in_halves
from headstart.errors import ModuleError
from headstart.events import Listener, Progress
from headstart.indicators import (
    AfterSteps,
    FeatureIndicator,
    HiddenIndicator,
    Indicator,
    OptionIndicator,
    ParameterIndicator,
    ProjectionIndicator,
    TokenIndicator,
    Trial,
    TuningIndicator,
    WeightIndicator,
)
from headstart.indicators.answers import NO_OPTIONS, Offered
from headstart.indicators.base_pass import MOST_HELD_BYTES, Projections
from headstart.indicators.contract import part_name
from headstart.indicators.passes import Expected, Found, Sweep, Workload, run_stack
from headstart.indicators.rows import NOT_FINITE, RowWriter
from headstart.indicators.states import Site
from headstart.indicators.table import NO_ANSWER, WHOLE
from headstart.kinds import AnyModule, Module, stacks
from headstart.kinds.updates import Update
from headstart.showing import plural

__all__ = ["Answers", "Run"]

ALL_ZERO = "its parameters there, or those that they are compared with, are all zero"
MOST_PREPARED = 256
"""How many modules are read at once before only what projections need of them is held."""
NO_PARAMETERS = "none of its parameters is in the requested part"
NO_PARTS = "the parts of this backbone's architecture are not known"
NO_SUCH_PART = "this backbone has no such part"
NO_UPDATE = "it changes nothing that the bare backbone reads: its updates are 0"
NOT_NUMBERS = "its parameters are not all finite numbers"
TOO_LARGE = "a single example under a single module does not fit into the device's memory; lower max_input"


@dataclass(frozen=True, eq=False)
class Answers:
    """What the examples ask for; a text says why there is nothing. `None`: nobody asked."""

    classes: Tensor | str | None = None
    options: Offered | str | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that one call of `score_table` works on.

    `extra`: further indicators, whose sums (modules, examples) are in `kept` after `all` and not in the table.
    `unread`: positions of the modules that could not be read. `among`: what relative indicators compare modules with,
    `None` for `modules`; `bound` holds these indicators once they know them, or why they cannot. `summed`:
    over the examples that were read so far, (modules,), for indicators that compare several sites.
    """

    work: Workload
    modules: Sequence[AnyModule]
    defined: Sequence[Indicator]
    reference: Module | None
    rows: RowWriter
    answers: Answers = field(default_factory=Answers)
    trials: Mapping[tuple[str, int], Trial | str] = field(default_factory=dict)
    extra: Sequence[TokenIndicator] = ()
    kept: dict[TokenIndicator, Tensor] = field(default_factory=dict)
    unread: set[int] = field(default_factory=set)
    among: Sequence[AnyModule] | None = None
    bound: dict[WeightIndicator, WeightIndicator | str] = field(default_factory=dict)
    summed: dict[tuple[HiddenIndicator, Site], Tensor] = field(default_factory=dict)

    def all(self, progress: Listener | None) -> None:
        """Run every sweep over every stack, and record the results."""
        sweeps = self.work.sweeps([*self.defined, *(one for one in self.extra if one not in self.defined)])
        projecting = [one for one in self.defined if isinstance(one, ProjectionIndicator)]
        others = self._others()
        read = sum(len(sweep.positions) for sweep in sweeps if sweep.reads) + len(self.work.items) * bool(projecting)
        total, done = len(self.modules) * (read + len(others.work.items if others else ())), 0
        what = f"scoring {plural(len(self.modules), 'module')} × {plural(len(self.work.items), 'example')}"

        def report(more: int) -> None:
            nonlocal done
            done += more
            if progress is not None and more:
                progress(Progress(what, min(done, total), total))  # what did not fit is counted again

        for one in self.extra:
            self.kept[one] = torch.full((len(self.modules), len(self.work.items)), torch.nan, dtype=torch.float64)
        if projecting:
            self._base(projecting, report=report)
        self._sweep(sweeps, report)
        self._sites()
        if others is not None:
            others._sweep(others.work.sweeps(others.extra), report)
        self._options(others)

    def _sweep(self, sweeps: Sequence[Sweep], report: Callable[[int], None]) -> None:
        for sweep in sweeps:
            expected = self.work.expected(self.reference, sweep)
            for members in stacks(self.modules, most=self.work.widest) if sweep.reads or sweep.by_weight else ():
                read = self._read([index for index in members if index not in self.unread])
                self._weights(sweep, read)
                if sweep.reads:
                    report((len(members) - len(read)) * len(sweep.positions))
                    self._run(sweep, read, expected, report=report)

    def _run(
        self, sweep: Sweep, read: Mapping[int, Module], expected: Expected, *, report: Callable[[int], None]
    ) -> None:
        """Run modules of one shape, by their positions."""
        waiting = list(read)

        def compute(budget: int) -> None:
            self.work.within(budget)
            while waiting:
                now = waiting[: self.work.widest]
                found = run_stack(self.work, [read[index] for index in now], sweep, expected=expected, report=report)
                self._write(sweep, now, found)
                del waiting[: len(now)]

        in_halves(compute, self.work.budget, too_large=TOO_LARGE)

    def _read(self, members: Iterable[int]) -> dict[int, Module]:
        """The modules at these positions; for one that cannot be read, the reason is recorded once."""
        read: dict[int, Module] = {}
        for index in members:
            try:
                read[index] = self.modules[index].load()
            except ModuleError as error:
                self.unread.add(index)
                for indicator in self.defined:
                    self.rows.missing([index], indicator, str(error))
        return read

    # What needs no module to be run

    def _base(self, indicators: Sequence[ProjectionIndicator], *, report: Callable[[int], None]) -> None:
        """Read the examples once with the bare backbone, for all modules whose updates can be held at once."""
        groups = stacks(self.modules, most=MOST_PREPARED)
        held = Projections(self.work, indicators)
        for number, members in enumerate(groups):
            updates: dict[int, Mapping[str, Update]] = {}
            for index, module in self._read(members).items():
                try:
                    updates[index] = _finite_updates(module)
                except ModuleError as error:
                    for indicator in indicators:
                        self.rows.missing([index], indicator, str(error))
            report((len(members) - len(updates)) * len(self.work.items))
            held.add(updates)
            if held.bytes > MOST_HELD_BYTES or number == len(groups) - 1:
                self._project(held, report)
                held = Projections(self.work, indicators)

    def _project(self, held: Projections, report: Callable[[int], None]) -> None:
        def compute(budget: int) -> dict[ProjectionIndicator, Tensor]:
            self.work.within(budget)
            return held.run(report)

        found = in_halves(compute, self.work.budget, too_large=TOO_LARGE)
        every = range(len(self.work.items))
        for indicator, values in found.items():
            for index, own in zip(held.modules, values, strict=True):
                if own.isnan().all():
                    self.rows.missing([index], indicator, NO_UPDATE)
                else:
                    self.rows.examples([index], indicator, every, own.unsqueeze(0).numpy(), whole=True)

    def _weights(self, sweep: Sweep, read: Mapping[int, Module]) -> None:
        for indicator in sweep.by_weight:
            if isinstance(indicator, WeightIndicator):
                assert self.reference is not None  # `score_table` has checked that there is one
                if indicator not in self.bound:
                    self.bound[indicator] = self._among(indicator)
                bound = self.bound[indicator]
                if isinstance(bound, str):
                    self.rows.missing(list(read), indicator, bound)
                    continue
                for index, value in zip(read, bound.from_modules(list(read.values()), self.reference), strict=True):
                    self._weighed(index, indicator, value if isinstance(value, str) else {WHOLE: value})
                continue
            for index, module in read.items():
                # The name under which it was asked for; that on its own card may be another.
                self._weighed(index, indicator, self._compared(indicator, module, self.modules[index].name))

    def _among(self, indicator: WeightIndicator) -> WeightIndicator | str:
        try:
            return indicator.among(self.modules if self.among is None else self.among)
        except ModuleError as error:
            return str(error)

    def _weighed(self, index: int, indicator: Indicator, found: Mapping[str, float] | str) -> None:
        if isinstance(found, str):
            self.rows.missing([index], indicator, found)
            return
        for part, value in found.items():
            if value == value:
                self.rows.whole([index], indicator, [value], part=part)
            elif part == WHOLE:
                self.rows.missing([index], indicator, ALL_ZERO)

    def _compared(
        self, indicator: ParameterIndicator | TuningIndicator, module: Module, name: str
    ) -> Mapping[str, float] | str:
        """The values by part of one module, or the reason why there are none."""
        trial = self.trials[name, indicator.m] if isinstance(indicator, AfterSteps) else None
        if isinstance(trial, str):
            return trial
        if isinstance(indicator, TuningIndicator):
            assert trial is not None
            return {WHOLE: indicator.from_trial(trial)}
        if not all(bool(value.isfinite().all()) for value in module.parameters().values()):
            return NOT_NUMBERS
        other = self.reference if trial is None else trial.module
        assert other is not None  # `score_table` has checked that there is one
        own, theirs = module.parameters(), other.parameters()
        for key in sorted(own.keys() | theirs.keys()):
            here, there = (None if key not in held else tuple(held[key].shape) for held in (own, theirs))
            if here != there:
                return f"{key} is {_shape(here)} in it and {_shape(there)} in '{other.name}', so it is not comparable"
        values = indicator.by_part(own, theirs, {key: self.work.part(key) for key in own})
        return values if WHOLE in values else NO_PARAMETERS if self.work.architecture else NO_PARTS

    # What a stack of modules computed

    def _write(self, sweep: Sweep, members: Sequence[int], found: Found) -> None:
        for by_token, sums in found.by_token.items():
            if by_token in self.defined:
                self.rows.examples(members, by_token, sweep.positions, sums.numpy())
            if by_token in self.extra:
                self.kept[by_token][torch.tensor(members).unsqueeze(1), torch.tensor(sweep.positions)] = sums
        for by_gradient, parts in found.by_part.items():
            if not self.work.tokens:
                self.rows.missing(members, by_gradient, NO_ANSWER)
                continue
            if WHOLE not in parts:
                self.rows.missing(members, by_gradient, NO_PARAMETERS if self.work.architecture else NO_PARTS)
                continue
            for part, values in parts.items():
                self.rows.whole(members, by_gradient, values.tolist(), part=part, tokens=self.work.tokens)
        for by_hidden, sites in found.by_site.items():
            self._hidden(by_hidden, list(sites.values()), members, sweep)
            for site, values in sites.items() if len(sites) > 1 else ():
                none = torch.zeros(len(self.modules), dtype=torch.float64)
                self.summed.setdefault((by_hidden, site), none)[torch.tensor(members)] += values.sum(1)
        for by_feature in sweep.by_feature:
            assert found.features is not None
            self._features(by_feature, found.features.double(), members, sweep)

    def _features(self, indicator: FeatureIndicator, features: Tensor, members: Sequence[int], sweep: Sweep) -> None:
        assert isinstance(self.answers.classes, Tensor)
        finite = features.isfinite().flatten(1).all(1)
        known = [index for index, there in zip(members, finite.tolist(), strict=True) if there]
        self.rows.missing([index for index in members if index not in known], indicator, NOT_FINITE)
        if known:
            values = indicator.from_features(features[finite], self.answers.classes)
            if values.dim() == 2:
                self.rows.examples(known, indicator, sweep.positions, values.numpy(), whole=True)
            else:
                self.rows.whole(known, indicator, values.tolist())

    def _hidden(
        self, indicator: HiddenIndicator, values: Sequence[Tensor], members: Sequence[int], sweep: Sweep
    ) -> None:
        if values:
            means = torch.stack(list(values)).mean(0).numpy()
            self.rows.examples(members, indicator, sweep.positions, means, whole=True)
        elif 0 in sweep.positions:  # once, however many groups there are
            self.rows.missing(members, indicator, NO_SUCH_PART if self.work.architecture else NO_PARTS)

    def _sites(self) -> None:
        """The mean over all examples at each of several sites: one row, however many groups there were."""
        known = [index for index in range(len(self.modules)) if index not in self.unread]
        for (indicator, site), sums in self.summed.items() if known else ():
            means = sums[known] / len(self.work.items)
            self.rows.whole(known, indicator, means.tolist(), part=part_name(site.part))

    # Options

    def _others(self) -> "Run | None":
        """The run over those options that are no example's target."""
        offered = self.answers.options
        if not isinstance(offered, Offered) or not offered.others:
            return None
        work = Workload(self.work.backbone, offered.others, budget=self.work.budget)
        rows = RowWriter([module.name for module in self.modules], [len(item.target) for item in offered.others])
        nothing = torch.full((len(self.modules), len(offered.others)), torch.nan, dtype=torch.float64)
        return Run(
            work, self.modules, (), None, rows, extra=offered.read, kept={offered.read[0]: nothing}, unread=self.unread
        )

    def _options(self, others: "Run | None") -> None:
        asked = [one for one in self.defined if isinstance(one, OptionIndicator)]
        offered = self.answers.options
        if not asked or not isinstance(offered, Offered):
            return
        read = [self.kept[one] for one in offered.read]
        likelihoods = offered.likelihoods(read, None if others is None else others.kept[offered.read[0]])
        known = [index for index in range(len(self.modules)) if index not in self.unread]
        for indicator in asked if known else ():
            values = torch.full((len(known), len(offered.texts)), torch.nan, dtype=torch.float64)
            for example, (own, right) in enumerate(zip(likelihoods, offered.right, strict=True)):
                if len(right):
                    found = indicator.per_example(own[known], right).double()
                    values[:, example] = found.where(own[known].isfinite().all(1), torch.nan)
            every = range(len(offered.texts))
            for index, own in zip(known, values, strict=True):
                reason = NO_OPTIONS if all(bool(one[index].isfinite().all()) for one in likelihoods) else NOT_FINITE
                self.rows.examples([index], indicator, every, own.unsqueeze(0).numpy(), whole=True, reason=reason)


def _finite_updates(module: Module) -> Mapping[str, Update]:
    """The updates of a module. Raises `ModuleError` if they are not all finite numbers, or as `Module.updates`."""
    updates = module.updates()
    if not all(bool(part.isfinite().all()) for one in updates.values() for part in one if isinstance(part, Tensor)):
        raise ModuleError(NOT_NUMBERS)
    return updates


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape))
