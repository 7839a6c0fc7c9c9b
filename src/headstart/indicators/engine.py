"""The pass: every module, every example, once; whatever the asked indicators need is computed from it."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headstart.backbones import PASS_COST, Backbone, Encoded, Head, TargetBatch, TextFormat, plan_batches
from headstart.errors import ModuleError, SettingError, TaskError
from headstart.indicators import (
    INDICATORS,
    GradientIndicator,
    Indicator,
    TokenIndicator,
    TokenStatistics,
    WeightIndicator,
)
from headstart.kinds import AnyModule, Module, Stack, stack_of, stacks
from headstart.tasks import Example

__all__ = ["REDUCTIONS", "Scores", "check_reduction", "score"]

REDUCTIONS = ("mean", "sum")
NO_DISTRIBUTION = "it compares distributions over answers, and a regression answers with one number"
MOST_MODULES = 64
MOST_LOGIT_ROWS = 1024

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scores:
    """What `score` found. `values[indicator][i]` belongs to `names[i]`; NaN where `reasons` says why there is none.

    `reduction` is over the `tokens` target tokens of the `examples` examples.
    """

    names: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    reduction: str
    examples: int
    tokens: int
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    def best(self, indicator: str) -> int:
        """Position of the module with the highest value; raises `SettingError` when none has a value."""
        known = [(value, -index) for index, value in enumerate(self.values[indicator]) if not math.isnan(value)]
        if not known:
            raise SettingError(f"no module has a value of '{indicator}'; use another indicator")
        return -max(known)[1]


def score(
    modules: Sequence[AnyModule],
    examples: Sequence[Example],
    backbone: Backbone,
    *,
    indicators: Sequence[str] = ("cosine",),
    reduction: str = "mean",
    reference: Module | None = None,
    text_format: TextFormat | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score every module on the examples by every asked indicator, in one pass.

    Args:
        modules: modules that fit the backbone (see `Module.check`), of any mix of shapes. Those that are still to be
            read are held a stack at a time; one that cannot be read then has no value, and the reason says why.
        examples: labelled examples of the new task; the first acceptable target is the gold one.
        backbone: the frozen model.
        indicators: names in `INDICATORS`.
        reduction: "mean" over target tokens, or "sum" as [PEWE] writes it, which makes a softmax nearly one-hot.
        reference: a module tuned on the new task, for indicators with `needs_reference`.
        text_format: text layout and cut lengths.
        budget: tokens per forward pass; `None` takes what suits the device.
        progress: called with (done, total) module-batches.

    Raises:
        SettingError: unknown indicator or reduction, or a reference that is asked for and missing.
        TaskError: no examples.
    """
    chosen = [INDICATORS[name] for name in dict.fromkeys(indicators)]
    _check_request(chosen, examples, reduction, reference)
    head = _shared_head(chosen, backbone, reference)
    pairs = [(example.input, example.target) for example in examples]
    needed = head is not None or not backbone.is_encoder  # a comparison of weights alone reads no text
    items = backbone.encode(pairs, text_format or TextFormat(), head=head.card if head else None) if needed else []
    answering = modules if head is None else [module.with_head(head) for module in modules]
    values = head is not None and head.card.task == "regression"
    defined = [indicator for indicator in chosen if not (values and indicator.distribution)]
    run = _Pass(backbone, items, defined, budget=budget, modules=len(modules))
    scale = 1 / max(run.tokens, 1) if reduction == "mean" else 1.0
    found = run.over(answering, reference, scale=scale, progress=progress)
    reasons = _without_value(found, modules, run.unread) | _from_weights(chosen, modules, reference, found)
    for indicator in chosen:
        if indicator not in defined:
            found[indicator.name] = [math.nan] * len(modules)
            reasons[indicator.name] = dict.fromkeys((module.name for module in modules), NO_DISTRIBUTION)
    names = tuple(module.name for module in modules)
    by_name = {indicator.name: tuple(found[indicator.name]) for indicator in chosen}
    return Scores(names, by_name, reduction, len(examples), run.tokens, reasons)


def check_reduction(reduction: str) -> None:
    """Raise `SettingError` for a reduction that is none."""
    if reduction not in REDUCTIONS:
        raise SettingError(f"unknown reduction '{reduction}'; choose one of: {', '.join(REDUCTIONS)}")


def _check_request(
    chosen: Sequence[Indicator], examples: Sequence[Example], reduction: str, reference: Module | None
) -> None:
    check_reduction(reduction)
    if not chosen:
        raise SettingError(f"no indicator was asked for; choose from: {', '.join(INDICATORS)}")
    if not examples:
        raise TaskError("there are no examples to score on; give the task a dev split or more rows")
    for indicator in chosen:
        if indicator.needs_reference and reference is None:
            raise SettingError(f"'{indicator.name}' needs a reference module tuned on the task; give reference=")


def _shared_head(chosen: Sequence[Indicator], backbone: Backbone, reference: Module | None) -> Head | None:
    """The head through which every module answers on an encoder: the reference module's, tuned on the new task.

    Raises `SettingError` where there is none although predictions are asked for.
    """
    if not backbone.is_encoder or all(isinstance(indicator, WeightIndicator) for indicator in chosen):
        return None
    if reference is None or reference.head is None:
        raise SettingError(
            f"on the encoder {backbone.name} modules answer through a task head that was tuned on the new task; "
            "give reference=, a module tuned on it"
        )
    return reference.head


class _Pass:
    """The batches of one scoring run, and the sums over them for one stack at a time."""

    def __init__(
        self,
        backbone: Backbone,
        items: Sequence[Encoded],
        chosen: Sequence[Indicator],
        *,
        budget: int | None,
        modules: int,
    ) -> None:
        self.backbone = backbone
        self.by_token = [indicator for indicator in chosen if isinstance(indicator, TokenIndicator)]
        self.by_gradient = [indicator for indicator in chosen if isinstance(indicator, GradientIndicator)]
        lengths = [len(item.prompt) + len(item.target) for item in items]
        budget = budget or backbone.token_budget
        typical = sorted(lengths)[len(lengths) // 2] if lengths else 1
        self.width = max(1, min(budget // typical, MOST_MODULES, max(modules, 1)))
        self.unread: dict[int, str] = {}
        self.tokens = sum(len(item.target) for item in items)
        plan = plan_batches(
            lengths,
            budget=budget // self.width,
            pass_cost=PASS_COST / self.width,
            targets=[len(item.target) for item in items],
            most_targets=MOST_LOGIT_ROWS // self.width,
        )
        self.batches = [backbone.batch(items, indices) for indices in plan] if self.by_token or self.by_gradient else []

    def over(
        self, modules: Sequence[AnyModule], reference: Module | None, *, scale: float, progress: Progress | None
    ) -> dict[str, list[float]]:
        """Every token and gradient indicator of every module: the sums over target tokens times `scale`."""
        found = {indicator.name: [math.nan] * len(modules) for indicator in (*self.by_token, *self.by_gradient)}
        compared = self._reference_log_p(reference)
        groups = stacks(modules, most=self.width) if found else []
        steps = len(groups) * len(self.batches)
        done = iter(range(1, steps + 1))
        report = (lambda: progress(next(done), steps)) if progress else (lambda: None)
        for members in groups:
            read = self._read(modules, members)
            if not read:
                continue
            for name, values in self._totals(list(read.values()), compared, scale=scale, report=report).items():
                for index, value in zip(read, values.tolist(), strict=True):
                    found[name][index] = value
        return found

    def _read(self, modules: Sequence[AnyModule], members: Sequence[int]) -> dict[int, Module]:
        """The members of one stack by position, as far as they can be read; `unread` says why the others cannot."""
        read = {}
        for index in members:
            try:
                read[index] = modules[index].load()
            except ModuleError as error:
                self.unread[index] = str(error)
        return read

    def _reference_log_p(self, reference: Module | None) -> Sequence[Tensor | None]:
        """log p of the reference module at every target token, (M, V) per batch; `None` where nobody asks for it."""
        if reference is None or not any(indicator.needs_reference for indicator in self.by_token):
            return [None] * len(self.batches)
        stack = stack_of([reference], self.backbone)
        with torch.inference_mode(), stack.attach(self.backbone):
            return [self.backbone.target_logits(batch)[0].float().log_softmax(-1).cpu() for batch in self.batches]

    def _totals(
        self,
        modules: Sequence[Module],
        reference_log_p: Sequence[Tensor | None],
        *,
        scale: float,
        report: Callable[[], None],
    ) -> dict[str, Tensor]:
        """Every token and gradient indicator of one stack over all batches, (N,) each."""
        # Gradients add up over batches in the parameters' own dtype, and bfloat16 would drop the small ones.
        dtype = torch.float32 if self.by_gradient else None
        stack = stack_of(modules, self.backbone, dtype=dtype)
        sums = {indicator.name: torch.zeros(len(modules), dtype=torch.float64) for indicator in self.by_token}
        with contextlib.ExitStack() as open_blocks:
            open_blocks.enter_context(stack.attach(self.backbone))
            open_blocks.enter_context(stack.gradients() if self.by_gradient else torch.inference_mode())
            for batch, reference in zip(self.batches, reference_log_p, strict=True):
                self._add(batch, stack, reference, sums)
                report()
            squared = stack.squared_gradients() if self.by_gradient else {}
        totals = {name: value * scale for name, value in sums.items()}
        for indicator in self.by_gradient:
            totals[indicator.name] = indicator.from_squared_gradients(
                {name: value.double() * scale**2 for name, value in squared.items()}
            )
        return totals

    def _add(self, batch: TargetBatch, stack: Stack, reference: Tensor | None, sums: dict[str, Tensor]) -> None:
        logits = self.backbone.target_logits(batch, modules=len(stack))
        tokens = TokenStatistics(logits, batch.gold.to(logits.device), reference)
        if self.by_gradient:
            torch.autograd.backward(-tokens.gold_log_p.sum())
        with torch.no_grad():
            for indicator in self.by_token:
                sums[indicator.name] += indicator.per_token(tokens).double().sum(1).cpu()


def _without_value(
    found: dict[str, list[float]], modules: Sequence[AnyModule], unread: Mapping[int, str]
) -> dict[str, dict[str, str]]:
    """Turn infinities into NaN; returns the reasons of the missing values."""
    reasons: dict[str, dict[str, str]] = {}
    for name, values in found.items():
        for index, value in enumerate(values):
            if not math.isfinite(value):
                values[index] = math.nan
                reasons.setdefault(name, {})[modules[index].name] = unread.get(
                    index, "its predictions are not finite numbers"
                )
    return reasons


def _from_weights(
    chosen: Sequence[Indicator], modules: Sequence[AnyModule], reference: Module | None, found: dict[str, list[float]]
) -> dict[str, dict[str, str]]:
    """Fill in the indicators that compare parameters; returns the reasons of the missing values."""
    reasons: dict[str, dict[str, str]] = {}
    for indicator in chosen:
        if isinstance(indicator, WeightIndicator) and reference is not None:
            found[indicator.name] = [math.nan] * len(modules)
            for index, module in enumerate(modules):
                try:
                    (value,) = indicator.from_modules([module.load()], reference)
                except ModuleError as error:
                    value = str(error)
                if isinstance(value, str):
                    reasons.setdefault(indicator.name, {})[modules[index].name] = value
                else:
                    found[indicator.name][index] = value
    return reasons
