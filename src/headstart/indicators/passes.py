"""The forward passes of one scoring run: which examples share a pass, and what a stack of modules computes on them."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from headstart.architectures import Architecture, Part, architecture_of
from headstart.backbones import PASS_COST, Backbone, Encoded, TargetBatch, plan_batches
from headstart.indicators import (
    FeatureIndicator,
    GradientIndicator,
    HiddenIndicator,
    Indicator,
    Need,
    ParameterIndicator,
    TokenIndicator,
    TokenStatistics,
    TuningIndicator,
    WeightIndicator,
)
from headstart.indicators.states import ANSWER, Site, States, Vectors, answer_features, sites_of
from headstart.indicators.workers import usual_workers, worker_threads
from headstart.kinds import Module, Stack, stack_of

__all__ = ["Expected", "Found", "Sweep", "Workload", "run_stack"]

MOST_MODULES = 64
MOST_LOGIT_ROWS = 1024
MOST_LOGITS = 1024 * 49152
"""The most rows of logits, and the most logits in all, that the forward passes running at once may produce."""
MOST_REFERENCE_BYTES = 2**28
"""The most bytes of the reference module's predictions that are held at once."""


@dataclass(frozen=True)
class Sweep:
    """One sweep over all modules: with these indicators, on the examples at `positions`."""

    positions: tuple[int, ...]
    by_token: tuple[TokenIndicator, ...] = ()
    by_gradient: tuple[GradientIndicator, ...] = ()
    by_hidden: tuple[HiddenIndicator, ...] = ()
    by_feature: tuple[FeatureIndicator, ...] = ()
    by_weight: tuple[WeightIndicator | ParameterIndicator | TuningIndicator, ...] = ()

    @property
    def reads(self) -> bool:
        """Whether the backbone is run at all."""
        return bool(self.by_token or self.by_gradient or self.by_hidden or self.by_feature)

    @property
    def compares(self) -> bool:
        """Whether what is computed is compared with the same under the reference module."""
        return bool(self.by_hidden) or self.compares_predictions

    @property
    def compares_predictions(self) -> bool:
        """Whether predictions are compared with those of the reference module."""
        return any(Need.REFERENCE in indicator.needs for indicator in self.by_token)


@dataclass(frozen=True, eq=False)
class Expected:
    """What the reference module computes, by the positions of examples: log p (m, V), and vectors (K, D) of sites."""

    log_p: Mapping[int, Tensor] = field(default_factory=dict)
    states: Mapping[int, Mapping[Site, Tensor]] = field(default_factory=dict)


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
    def counted(self) -> list[int]:
        """How many target tokens of each example count: none if its answer lies beyond what is read of the input."""
        return [0 if item.cut_off else len(item.target) for item in self.items]

    @cached_property
    def tokens(self) -> int:
        """The number of target tokens of all examples that count."""
        return sum(self.counted)

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

    @cached_property
    def blocks(self) -> dict[str, int]:
        """How many blocks each stack of the backbone has, by the stack's path below the base."""
        if self.architecture is None:
            return {}
        base, model = self.architecture.base, self.backbone.model
        lists = {blocks.path: model.get_submodule(f"{base}{blocks.path}") for blocks in self.architecture.blocks}
        return {path: sum(1 for _ in layers.children()) for path, layers in lists.items()}

    def sites(self, indicator: HiddenIndicator) -> list[Site]:
        """The layers whose outputs an indicator compares."""
        return sites_of(indicator, self.architecture, self.blocks)

    def sweeps(self, chosen: Sequence[Indicator]) -> list[Sweep]:
        """What to run for these indicators: one sweep, unless what is held of the reference module is too large.

        In that case it is held for one group of examples at a time, and all modules run on one group after another.
        Gradients and features are taken over all examples together, so they get a separate sweep.
        """
        every = tuple(range(len(self.items)))
        whole = Sweep(
            every,
            tuple(indicator for indicator in chosen if isinstance(indicator, TokenIndicator)),
            tuple(indicator for indicator in chosen if isinstance(indicator, GradientIndicator)),
            tuple(indicator for indicator in chosen if isinstance(indicator, HiddenIndicator)),
            tuple(indicator for indicator in chosen if isinstance(indicator, FeatureIndicator)),
            tuple(one for one in chosen if isinstance(one, WeightIndicator | ParameterIndicator | TuningIndicator)),
        )
        groups = self._groups() if whole.compares else [every]
        if len(groups) == 1:
            return [whole]
        apart = bool(whole.by_gradient or whole.by_feature)
        later = tuple(one for one in whole.by_token if Need.REFERENCE in one.needs or not apart)
        sooner = tuple(one for one in whole.by_token if one not in later)
        first = replace(whole, by_token=sooner, by_hidden=())
        rest = [Sweep(group, later, by_hidden=whole.by_hidden) for group in groups]
        return [first, *rest] if apart or whole.by_weight else rest

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

    def expected(self, reference: Module | None, sweep: Sweep) -> Expected:
        """What the reference module computes on every example of the sweep, as far as it is compared."""
        if reference is None or not sweep.compares:
            return Expected()
        log_p: dict[int, Tensor] = {}
        held: dict[int, dict[Site, Tensor]] = {}
        states = States(self.backbone, [site for one in sweep.by_hidden for site in self.sites(one)])
        stack, batches = stack_of([reference], self.backbone), self.batches(sweep.positions, 1)
        with torch.inference_mode(), stack.attach(self.backbone), states.watched():
            for batch in batches:
                logits = self.backbone.target_logits(batch)
                taken = states.taken(batch, 1)
                for row, position in enumerate(batch.indices):
                    if sweep.compares_predictions:
                        log_p[position] = logits[0, batch.owner == row].float().log_softmax(-1).cpu()
                    held[position] = {site: v.values[0, v.owner == row].cpu() for site, v in taken.items()}
        return Expected(log_p, held)


@dataclass(frozen=True, eq=False)
class Found:
    """What one stack of N modules computed in a sweep over E examples, in the order of its positions.

    `by_token`: sums over each example's target tokens, (N, E). `by_part`: of gradient indicators, for all examples
    together, (N,) each. `by_site`: means over each example's vectors, (N, E). `features`: (N, E, D), if asked for.
    """

    by_token: Mapping[TokenIndicator, Tensor]
    by_part: Mapping[GradientIndicator, Mapping[str, Tensor]]
    by_site: Mapping[HiddenIndicator, Mapping[Site, Tensor]]
    features: Tensor | None


@dataclass(frozen=True, eq=False)
class _Passed:
    """What one pass over B examples gave: as in `Found`, with B in place of E."""

    by_token: Mapping[TokenIndicator, Tensor]
    by_site: Mapping[tuple[HiddenIndicator, Site], Tensor]
    features: Tensor | None


def run_stack(
    work: Workload, modules: Sequence[Module], sweep: Sweep, *, expected: Expected, report: Callable[[int], None]
) -> Found:
    """Compute modules of one shape together on the examples of a sweep.

    `expected` is what `Workload.expected` gave for the sweep; `report` is called after each batch with its number of
    examples times that of the modules.
    """
    # Gradients add up over batches in the parameters' own dtype, and bfloat16 would drop the small ones.
    stack = stack_of(modules, work.backbone, dtype=torch.float32 if sweep.by_gradient else None)
    batches = work.batches(sweep.positions, len(modules))
    sites = {one: work.sites(one) for one in sweep.by_hidden}
    read = [site for own in sites.values() for site in own]
    states = States(work.backbone, [ANSWER, *read] if sweep.by_feature else read)
    one_pass = _Pass(work, stack, sweep, expected, states, sites).over
    squared: dict[str, Tensor] = {}
    passed: list[_Passed] = []

    def collect(results: Iterable[_Passed]) -> None:
        for batch, found in zip(batches, results, strict=True):
            passed.append(found)
            report(len(modules) * len(batch.indices))

    with stack.attach(work.backbone), states.watched():
        if sweep.by_gradient:
            with stack.gradients():
                collect(map(one_pass, batches))
                squared = {name: value.double() for name, value in stack.squared_gradients().items()}
        elif (workers := min(work.workers, len(batches))) > 1 and stack.concurrent:
            with worker_threads(workers) as pool:
                collect(pool.map(one_pass, batches))
        else:
            collect(map(one_pass, batches))
    parts = {name: work.part(name) for name in squared}
    order = _order(sweep.positions, batches)
    return Found(
        {one: _joined([found.by_token[one] for found in passed], order) for one in sweep.by_token},
        {one: one.by_part(squared, parts) for one in sweep.by_gradient},
        {
            one: {site: _joined([found.by_site[one, site] for found in passed], order) for site in own}
            for one, own in sites.items()
        },
        _joined([f.features for f in passed if f.features is not None], order) if sweep.by_feature else None,
    )


def _order(positions: Sequence[int], batches: Sequence[TargetBatch]) -> Tensor:
    """Where, in the batches one after the other, the example at each of the positions is."""
    place = {position: number for number, position in enumerate(i for batch in batches for i in batch.indices)}
    return torch.tensor([place[position] for position in positions])


def _joined(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    return torch.cat(list(parts), dim=1).index_select(1, order)


@dataclass(frozen=True, eq=False)
class _Pass:
    """What every pass of a stack has in common; `sites` are those that each indicator compares."""

    work: Workload
    stack: Stack
    sweep: Sweep
    expected: Expected
    states: States
    sites: Mapping[HiddenIndicator, Sequence[Site]]

    def over(self, batch: TargetBatch) -> _Passed:
        """What the indicators read of the batch; gradients add up in the stack."""
        stack, sweep = self.stack, self.sweep
        with contextlib.nullcontext() if sweep.by_gradient else torch.inference_mode():
            logits = self.work.backbone.target_logits(batch, modules=len(stack))
            given = [self.expected.log_p[position] for position in batch.indices] if self.expected.log_p else []
            compared = _side_by_side(given, logits.shape[2]) if given else None
            tokens = TokenStatistics(logits, batch.gold.to(logits.device), compared)
            taken = self.states.taken(batch, len(stack))
            counted = self._counted(batch)
            if sweep.by_gradient:
                torch.autograd.backward(-tokens.gold_log_p[:, counted].sum())
            with torch.no_grad():
                blank = torch.zeros(len(stack), len(batch.indices), dtype=torch.float64)
                sums = {
                    one: blank.index_add(1, batch.owner[counted], one.per_token(tokens).cpu().double()[:, counted])
                    for one in sweep.by_token
                }
                means = {
                    (one, site): _means(one, taken[site], [self.expected.states[i][site] for i in batch.indices])
                    for one, own in self.sites.items()
                    for site in own
                }
                features = answer_features(taken[ANSWER]).cpu() if sweep.by_feature else None
        return _Passed(sums, means, features)

    def _counted(self, batch: TargetBatch) -> Tensor | slice:
        """The target tokens that count, as an index."""
        kept = torch.tensor([self.work.counted[position] > 0 for position in batch.indices])
        return slice(None) if bool(kept.all()) else kept[batch.owner].nonzero().squeeze(1)


def _means(indicator: HiddenIndicator, vectors: Vectors, expected: Sequence[Tensor]) -> Tensor:
    """The mean of the indicator over the vectors of each example, (N, B), float64."""
    values = indicator.per_vector(vectors.values, torch.cat(list(expected)).to(vectors.values.device)).cpu().double()
    counts = torch.bincount(vectors.owner, minlength=len(expected))
    return torch.zeros(len(values), len(expected), dtype=torch.float64).index_add(1, vectors.owner, values) / counts


def _side_by_side(log_p: Sequence[Tensor], width: int) -> Tensor:
    """(M, `width`) from several (m, V). Unlike a vocabulary, the positions of a span are padded as the batch is."""
    least = torch.finfo(torch.float32).min
    return torch.cat(
        [functional.pad(rows[:, :width], (0, max(0, width - rows.shape[1])), value=least) for rows in log_p]
    )
