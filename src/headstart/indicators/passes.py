"""The forward passes of one scoring run: which examples share a pass, and what a stack of modules computes on them."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional

from headstart.architectures import Architecture, Part, architecture_of
from headstart.backbones import PASS_COST, Backbone, Encoded, TargetBatch, plan_batches
from headstart.indicators import GradientIndicator, Indicator, Need, TokenIndicator, TokenStatistics, WeightIndicator
from headstart.indicators.workers import usual_workers, worker_threads
from headstart.kinds import Module, Stack, stack_of

__all__ = ["Found", "Sweep", "Workload", "run_stack"]

MOST_MODULES = 64
MOST_LOGIT_ROWS = 1024
MOST_LOGITS = 1024 * 49152
"""The most rows of logits, and the most logits in all, that the forward passes running at once may produce."""
MOST_REFERENCE_BYTES = 2**28
"""The most bytes of the reference module's predictions that are held at once."""


@dataclass(frozen=True)
class Sweep:
    """One sweep over all modules: with these indicators, on the examples at `positions`."""

    by_token: tuple[TokenIndicator, ...]
    by_gradient: tuple[GradientIndicator, ...]
    by_weight: tuple[WeightIndicator, ...]
    positions: tuple[int, ...]

    @property
    def reads(self) -> bool:
        """Whether the backbone is run at all."""
        return bool(self.by_token or self.by_gradient)

    @property
    def compares(self) -> bool:
        """Whether predictions are compared with those of the reference module."""
        return any(Need.REFERENCE in indicator.needs for indicator in self.by_token)


class Workload:
    """The examples of a run as token ids, and the batches in which a stack of each width reads them.

    Args:
        items: the examples.
        budget: tokens per forward pass, for all modules of a stack together; `None` is what suits the device.
    """

    def __init__(self, backbone: Backbone, items: Sequence[Encoded], *, budget: int | None) -> None:
        self.backbone = backbone
        self.items = items
        self.budget = budget or backbone.token_budget
        self.workers = usual_workers(backbone.device)
        self.lengths = [len(item.prompt) + len(item.target) for item in items]
        self.batches = lru_cache(maxsize=None)(self._batches)

    def within(self, budget: int) -> None:
        """Read in batches of at most so many tokens from now on."""
        if budget != self.budget:
            self.budget = budget
            self.batches.cache_clear()

    @cached_property
    def tokens(self) -> int:
        """The number of target tokens of all examples."""
        return sum(len(item.target) for item in self.items)

    @property
    def widest(self) -> int:
        """How many modules compute together at most: as many as fill a pass over one typical example."""
        typical = sorted(self.lengths)[len(self.lengths) // 2] if self.lengths else 1
        return max(1, min(self.budget // typical, 1 if self.backbone.goes_alone else MOST_MODULES))

    @cached_property
    def vocabulary(self) -> int:
        """The largest number of logits at one target token."""
        if self.backbone.is_encoder:
            return max(self.lengths, default=1)  # positions of a span; there are never so many labels
        return int(next(self.backbone.head.parameters()).shape[0])

    def _batches(self, positions: tuple[int, ...], width: int) -> list[TargetBatch]:
        plan = plan_batches(
            [self.lengths[position] for position in positions],
            budget=self.budget // width,
            pass_cost=PASS_COST / width,
            targets=[len(self.items[position].target) for position in positions],
            most_targets=min(MOST_LOGIT_ROWS, MOST_LOGITS // self.vocabulary) // (width * self.workers),
        )
        return [self.backbone.batch(self.items, [positions[index] for index in indices]) for indices in plan]

    @cached_property
    def architecture(self) -> Architecture | None:
        """Where the backbone's parts are, if that is known."""
        config = self.backbone.model.config
        return architecture_of(config.model_type, config.to_dict())

    def part(self, parameter: str) -> Part:
        """Where in the backbone a parameter of a stack is; in no part if the architecture is not known."""
        path = parameter.removeprefix("base_model.model.")  # PEFT's own names
        return Part(None, None, None) if self.architecture is None else self.architecture.part(path)

    def sweeps(self, chosen: Sequence[Indicator]) -> list[Sweep]:
        """What to run for these indicators: one sweep, unless the reference's predictions take too much memory.

        In that case they are held for one group of examples at a time, and all modules run on one group after another.
        Gradients are taken over all examples together, so they get a separate sweep.
        """
        every = tuple(range(len(self.items)))
        whole = Sweep(
            tuple(indicator for indicator in chosen if isinstance(indicator, TokenIndicator)),
            tuple(indicator for indicator in chosen if isinstance(indicator, GradientIndicator)),
            tuple(indicator for indicator in chosen if isinstance(indicator, WeightIndicator)),
            every,
        )
        groups = self._groups() if whole.compares else [every]
        if len(groups) == 1:
            return [whole]
        apart = bool(whole.by_gradient)
        later = tuple(one for one in whole.by_token if Need.REFERENCE in one.needs or not apart)
        sooner = tuple(one for one in whole.by_token if one not in later)
        first = [Sweep(sooner, whole.by_gradient, whole.by_weight, every)] if apart or whole.by_weight else []
        return [*first, *(Sweep(later, (), (), group) for group in groups)]

    def _groups(self) -> list[tuple[int, ...]]:
        """Groups of examples of similar length, each with logits that fit into `MOST_REFERENCE_BYTES`."""
        room = MOST_REFERENCE_BYTES // (4 * self.vocabulary)
        groups: list[list[int]] = [[]]
        held = 0
        for position in sorted(range(len(self.items)), key=self.lengths.__getitem__):
            rows = len(self.items[position].target)
            if groups[-1] and held + rows > room:
                groups.append([])
                held = 0
            groups[-1].append(position)
            held += rows
        return [tuple(group) for group in groups]

    def reference_log_p(self, reference: Module | None, sweep: Sweep) -> Mapping[int, Tensor]:
        """log p of the reference module at the target tokens of every example of the sweep, (m, V) by position."""
        if reference is None or not sweep.compares:
            return {}
        held: dict[int, Tensor] = {}
        batches = self.batches(sweep.positions, 1)
        with torch.inference_mode(), stack_of([reference], self.backbone).attach(self.backbone):
            for batch in batches:
                log_p = self.backbone.target_logits(batch)[0].float().log_softmax(-1).cpu()
                for row, position in enumerate(batch.indices):
                    held[position] = log_p[batch.owner == row]
        return held


@dataclass(frozen=True, eq=False)
class Found:
    """What one stack of N modules computed in a sweep.

    `by_token`: sums over each example's target tokens, (N, examples of the sweep), in the order of its positions.
    `by_part`: of gradient indicators, for all examples together, (N,) each.
    """

    by_token: Mapping[TokenIndicator, Tensor]
    by_part: Mapping[GradientIndicator, Mapping[str, Tensor]]


def run_stack(
    work: Workload,
    modules: Sequence[Module],
    sweep: Sweep,
    *,
    reference: Mapping[int, Tensor],
    report: Callable[[int], None],
) -> Found:
    """Compute modules of one shape together on the examples of a sweep.

    `reference` is what `Workload.reference_log_p` gave for the sweep; `report` is called after each batch with its
    number of examples times that of the modules.
    """
    # Gradients add up over batches in the parameters' own dtype, and bfloat16 would drop the small ones.
    stack = stack_of(modules, work.backbone, dtype=torch.float32 if sweep.by_gradient else None)
    sums = {one: torch.zeros(len(modules), len(work.items), dtype=torch.float64) for one in sweep.by_token}
    batches = work.batches(sweep.positions, len(modules))
    one_pass = partial(_one_pass, work.backbone, stack, sweep, reference)
    squared: dict[str, Tensor] = {}

    def collect(results: Iterable[Mapping[TokenIndicator, Tensor]]) -> None:
        for batch, found in zip(batches, results, strict=True):
            for indicator, values in found.items():
                sums[indicator][:, list(batch.indices)] = values
            report(len(modules) * len(batch.indices))

    with stack.attach(work.backbone):
        if sweep.by_gradient:
            with stack.gradients():
                collect(map(one_pass, batches))
                squared = {name: value.double() for name, value in stack.squared_gradients().items()}
        elif (workers := min(work.workers, len(batches))) > 1 and stack.concurrent:
            with worker_threads(workers) as pool:
                collect(pool.map(one_pass, batches))
        else:
            collect(map(one_pass, batches))
    by_token = {one: value[:, list(sweep.positions)] for one, value in sums.items()}
    parts = {name: work.part(name) for name in squared}
    return Found(by_token, {one: one.by_part(squared, parts) for one in sweep.by_gradient})


def _one_pass(
    backbone: Backbone, stack: Stack, sweep: Sweep, reference: Mapping[int, Tensor], batch: TargetBatch
) -> dict[TokenIndicator, Tensor]:
    """Sums over the target tokens of each example of the batch, (N, B); gradients add up in the stack."""
    with contextlib.nullcontext() if sweep.by_gradient else torch.inference_mode():
        logits = backbone.target_logits(batch, modules=len(stack))
        expected = [reference[position] for position in batch.indices] if reference else []
        compared = _side_by_side(expected, logits.shape[2]) if expected else None
        tokens = TokenStatistics(logits, batch.gold.to(logits.device), compared)
        if sweep.by_gradient:
            torch.autograd.backward(-tokens.gold_log_p.sum())
        with torch.no_grad():
            blank = torch.zeros(len(stack), len(batch.indices), dtype=torch.float64)
            return {
                one: blank.index_add(1, batch.owner, one.per_token(tokens).double().cpu()) for one in sweep.by_token
            }


def _side_by_side(log_p: Sequence[Tensor], width: int) -> Tensor:
    """(M, `width`) from several (m, V). Unlike a vocabulary, the positions of a span are padded as the batch is."""
    least = torch.finfo(torch.float32).min
    return torch.cat(
        [functional.pad(rows[:, :width], (0, max(0, width - rows.shape[1])), value=least) for rows in log_p]
    )
