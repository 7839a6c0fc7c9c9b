"""Scoring: every module reads every example once, and all requested indicators are computed from that."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from headstart.backbones import Backbone, BackboneLike, Encoded, Head, TextFormat, as_backbone
from headstart.backbones.memory import in_halves
from headstart.errors import ModuleError, SettingError, TaskError, of_type
from headstart.events import Listener, Progress
from headstart.hub import Hub
from headstart.indicators import INDICATORS, Indicator, Need, ProjectionIndicator, Spec, make_indicator
from headstart.indicators.base_pass import MOST_HELD_BYTES, Projections
from headstart.indicators.passes import Found, Sweep, Workload, run_stack
from headstart.indicators.rows import RowWriter
from headstart.indicators.table import WHOLE, Scores, ScoreTable, check_reduction, require_distinct
from headstart.kinds import AnyModule, Module, ModuleLike, as_module, as_modules, stacks
from headstart.kinds.updates import Update
from headstart.tasks import Example

__all__ = ["ANSWERS", "NO_DISTRIBUTION", "check_request", "chosen_indicators", "score", "score_table"]

NO_DISTRIBUTION = "it compares distributions over answers, and a regression answers with one number"
NO_PARAMETERS = "none of its parameters is in the requested part"
NO_PARTS = "the parts of this backbone's architecture are not known"
ANSWERS = frozenset({Need.PREDICTIONS, Need.GRADIENTS})
"""What an encoder's modules need a task head for."""
NO_UPDATE = "it changes nothing that the bare backbone reads: its updates are 0"
MOST_PREPARED = 256
"""How many modules are read at once before only what projections need of them is held."""
TOO_LARGE = "a single example under a single module does not fit into the device's memory; lower max_input"
SERVED = frozenset({Need.PREDICTIONS, Need.BASE_PASS, Need.GRADIENTS, Need.PARAMETERS, Need.REFERENCE})


def score_table(
    modules: Iterable[ModuleLike] | ModuleLike | Hub,
    examples: Sequence[Example],
    backbone: BackboneLike,
    *,
    indicators: str | Sequence[str | Spec | Indicator] = ("cosine",),
    reference: ModuleLike | None = None,
    text_format: TextFormat | None = None,
    budget: int | None = None,
    progress: Listener | None = None,
) -> ScoreTable:
    """Score every module on every example by every requested indicator, in one pass.

    Args:
        modules: modules that fit the backbone (see `Module.check`), of any shapes, with distinct names. Modules on the
            disk are read one stack at a time; one that cannot be read has no value, and the reason says why.
        examples: labelled examples of the new task; the first acceptable target is the gold one.
        backbone: the frozen model.
        indicators: specs, as in `make_indicator`, or a single one as text.
        reference: a module tuned on the new task, for indicators that need one.
        text_format: text layout and cut lengths.
        budget: tokens per forward pass; `None` takes what suits the device. Where memory runs out, it is halved.
        progress: hears how many examples are done, counted once for each module.

    Raises:
        SettingError: an unknown indicator, two modules with one name, or a missing reference that is needed.
        TaskError: no examples.
        TooLargeError: a single example under a single module does not fit into the device's memory.
    """
    chosen, examples = chosen_indicators(indicators), _as_examples(examples)
    check_request(chosen, examples)
    for indicator in chosen:
        if Need.REFERENCE in indicator.needs and reference is None:
            raise SettingError(f"'{indicator.name}' needs a reference module tuned on the task; give reference=")
    compared = None if reference is None else as_module(reference, parameter="reference").load()
    modules, backbone = as_modules(modules), as_backbone(backbone)
    require_distinct([module.name for module in modules])
    head = _shared_head(chosen, backbone, compared)
    work = Workload(backbone, _read(examples, backbone, text_format or TextFormat(), head=head), budget=budget)
    values = head is not None and head.card.task == "regression"
    defined = [indicator for indicator in chosen if not (values and indicator.distribution)]
    rows = RowWriter([module.name for module in modules], [len(item.target) for item in work.items])
    for indicator in chosen:
        if indicator not in defined:
            rows.missing(range(len(modules)), indicator, NO_DISTRIBUTION)
    answering = modules if head is None else [module.with_head(head) for module in modules]
    run = _Run(work, answering, defined, compared, rows)
    run.all(progress)
    return rows.table([str(indicator.spec) for indicator in chosen], examples=len(examples))


def score(
    modules: Iterable[ModuleLike] | ModuleLike | Hub,
    examples: Sequence[Example],
    backbone: BackboneLike,
    *,
    indicators: str | Sequence[str | Spec | Indicator] = ("cosine",),
    reduction: str = "mean",
    reference: ModuleLike | None = None,
    text_format: TextFormat | None = None,
    budget: int | None = None,
    progress: Listener | None = None,
) -> Scores:
    """One value per module and indicator: `score_table`, reduced over target tokens.

    `reduction` is "mean", or "sum" as [PEWE] writes it, which makes a softmax nearly one-hot. The other arguments and
    the errors are those of `score_table`.
    """
    check_reduction(reduction)
    table = score_table(
        modules, examples, backbone, indicators=indicators, reference=reference, text_format=text_format,
        budget=budget, progress=progress,
    )  # fmt: skip
    return table.reduce(reduction)


def chosen_indicators(asked: str | Iterable[str | Spec | Indicator]) -> list[Indicator]:
    """The indicators that are asked for, each once; a text may name several, separated by commas.

    Raises `SettingError`: see `make_indicator`.

    >>> [str(one.spec) for one in chosen_indicators("loss,cosine")]
    ['loss', 'cosine']
    """
    several = [asked] if isinstance(asked, str | Spec | Indicator) else asked
    if not isinstance(several, Iterable):
        raise SettingError(f"{of_type('indicators', asked)}; give names, such as {', '.join(INDICATORS)}")
    given: list[str | Spec | Indicator] = []
    for one in several:
        given += Spec.parse_several(one) if isinstance(one, str) else [one]
    return list(dict.fromkeys(map(make_indicator, given)))


def _read(
    examples: Sequence[Example], backbone: Backbone, text_format: TextFormat, *, head: Head | None
) -> list[Encoded]:
    """The examples as token ids; on an encoder without a head only what is read, since nothing can be answered."""
    if backbone.is_encoder and head is None:
        return [backbone.encoder.read(example.text, text_format) for example in examples]
    pairs = [(example.text, example.target) for example in examples]
    return backbone.encode(pairs, text_format, head=None if head is None else head.card)


def _as_examples(given: Sequence[Example]) -> Sequence[Example]:
    """The examples as they were given; raises `TaskError` for anything else."""
    remedy = "give a list of Example, such as the rows of task.dev"
    if not isinstance(given, Sequence):
        raise TaskError(f"{of_type('examples', given)}; {remedy}")
    for one in given:
        if not isinstance(one, Example):
            raise TaskError(f"{of_type('one of the examples', one)}; {remedy}")
    return given


def check_request(chosen: Sequence[Indicator], examples: Sequence[Example]) -> None:
    """Raise `SettingError` or `TaskError`, before any work, for what cannot be scored."""
    if not chosen:
        raise SettingError(f"no indicator was asked for; choose from: {', '.join(INDICATORS)}")
    if not examples:
        raise TaskError("there are no examples to score on; give the task a dev split or more rows")
    for indicator in chosen:
        unserved = sorted(indicator.needs - SERVED)
        if unserved:
            raise SettingError(
                f"'{indicator.name}' needs {', '.join(unserved)}, which scoring does not compute; use another indicator"
            )


def _shared_head(chosen: Sequence[Indicator], backbone: Backbone, reference: Module | None) -> Head | None:
    """The head through which every module answers on an encoder: the reference module's, tuned on the new task.

    Raises `SettingError` if predictions are needed and there is no such head.
    """
    if not backbone.is_encoder or not any(indicator.needs & ANSWERS for indicator in chosen):
        return None
    if reference is None or reference.head is None:
        raise SettingError(
            f"on the encoder {backbone.name} modules answer through a task head that was tuned on the new task; "
            "give reference=, a module tuned on it"
        )
    return reference.head


@dataclass(frozen=True)
class _Run:
    """Everything that one call of `score_table` works on."""

    work: Workload
    modules: Sequence[AnyModule]
    defined: Sequence[Indicator]
    reference: Module | None
    rows: RowWriter

    def all(self, progress: Listener | None) -> None:
        """Run every sweep over every stack, and record the results."""
        sweeps = self.work.sweeps(self.defined)
        projecting = [one for one in self.defined if isinstance(one, ProjectionIndicator)]
        read = sum(len(sweep.positions) for sweep in sweeps if sweep.reads) + len(self.work.items) * bool(projecting)
        total, done = len(self.modules) * read, 0

        def report(more: int) -> None:
            nonlocal done
            done += more
            if progress is not None and more:
                progress(Progress("scoring", min(done, total), total))  # what did not fit is counted again

        unread: set[int] = set()
        if projecting:
            self._base(projecting, unread, report=report)
        for sweep in sweeps:
            log_p = self.work.reference_log_p(self.reference, sweep)
            for members in stacks(self.modules, most=self.work.widest):
                self._over(sweep, members, unread, log_p=log_p, report=report)

    def _base(
        self, indicators: Sequence[ProjectionIndicator], unread: set[int], *, report: Callable[[int], None]
    ) -> None:
        """Read the examples once with the bare backbone, for all modules whose updates can be held at once."""
        groups = stacks(self.modules, most=MOST_PREPARED)
        held = Projections(self.work, indicators)
        for number, members in enumerate(groups):
            updates: dict[int, Mapping[str, Update]] = {}
            for index, module in self._read(members, unread).items():
                try:
                    updates[index] = module.updates()
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

    def _over(
        self,
        sweep: Sweep,
        members: Sequence[int],
        unread: set[int],
        *,
        log_p: Mapping[int, Tensor],
        report: Callable[[int], None],
    ) -> None:
        """Modules of one shape; those that were read for this are freed at the end."""
        if not (sweep.reads or sweep.by_weight):
            return
        read = self._read([index for index in members if index not in unread], unread)
        self._weights(sweep, read)
        if not sweep.reads:
            return
        report((len(members) - len(read)) * len(sweep.positions))
        waiting = list(read)

        def compute(budget: int) -> None:
            self.work.within(budget)
            while waiting:
                now = waiting[: self.work.widest]
                found = run_stack(self.work, [read[index] for index in now], sweep, reference=log_p, report=report)
                self._write(sweep, now, found)
                del waiting[: len(now)]

        in_halves(compute, self.work.budget, too_large=TOO_LARGE)

    def _read(self, members: Sequence[int], unread: set[int]) -> dict[int, Module]:
        """The modules at these positions; for one that cannot be read, the reason is recorded once."""
        read: dict[int, Module] = {}
        for index in members:
            try:
                read[index] = self.modules[index].load()
            except ModuleError as error:
                unread.add(index)
                for indicator in self.defined:
                    self.rows.missing([index], indicator, str(error))
        return read

    def _weights(self, sweep: Sweep, read: dict[int, Module]) -> None:
        for indicator in sweep.by_weight if self.reference is not None else ():
            assert self.reference is not None
            for index, value in zip(read, indicator.from_modules(list(read.values()), self.reference), strict=True):
                if isinstance(value, str):
                    self.rows.missing([index], indicator, value)
                else:
                    self.rows.whole([index], indicator, [value])

    def _write(self, sweep: Sweep, members: Sequence[int], found: Found) -> None:
        for by_token, sums in found.by_token.items():
            self.rows.examples(members, by_token, sweep.positions, sums.numpy())
        for by_gradient, parts in found.by_part.items():
            if WHOLE not in parts:
                self.rows.missing(members, by_gradient, NO_PARAMETERS if self.work.architecture else NO_PARTS)
                continue
            for part, values in parts.items():
                self.rows.whole(members, by_gradient, values.tolist(), part=part, tokens=self.work.tokens)
