"""Weights learned by gradient: the backbone runs with Σ w_i O_i attached, and only the w_i are updated."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from headstart.backbones import Backbone, BackboneInput, Encoded, TextFormat, plan_batches, target_loss
from headstart.backbones.source import RESOURCE
from headstart.blending.rules import Learning
from headstart.blending.spaces.aligned import aligned_parameters
from headstart.blending.spaces.contract import Options
from headstart.blending.spaces.exact import Exact
from headstart.blending.weights import LayerWeights, Weights
from headstart.errors import MergeError, SettingError
from headstart.kinds import AnyModule, LoraModule, Module, stack_of
from headstart.tasks import Example
from headstart.tasks.example import seeded_order
from headstart.units import Content, Context, Result, Unit

__all__ = ["LearnUnit", "Mixture", "layer_groups", "learn", "split_rows"]

STEPS, EVERY, PATIENCE, BATCH = 60, 5, 3, 8
"""Updates at most; how often the other rows are read; how often without a lower loss before the end; rows an update."""

PACES = {False: 0.1, True: 0.02}
"""Adam's learning rate on the logits of a simplex, and on signed weights themselves."""


@dataclass(frozen=True, eq=False)
class LearnUnit(Unit):
    """Weights learned for some modules on rows, of which half are read for early stopping only.

    `parts`: a number for every row, the same for those that belong together; empty if none do.
    """

    type: ClassVar[str] = "learn"

    backbone: BackboneInput
    modules: tuple[AnyModule, ...]
    summed: bool
    rows: Content[Sequence[Example]]
    text_format: TextFormat
    learning: Learning
    scale: float
    seed: int
    parts: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """How many modules are weighed."""
        return f"learning weights of {len(self.modules)} modules"

    def compute(self, context: Context) -> Result:
        """Learn; the result has a row for every evaluation."""
        backbone: Backbone = context.resource(RESOURCE)
        shares, groups, curve = learn(
            [module.load() for module in self.modules], self.rows.value, backbone, summed=self.summed,
            text_format=self.text_format, learning=self.learning, scale=self.scale, seed=self.seed,
            parts=self.parts,
        )  # fmt: skip
        facts = {"weights": shares, "groups": [list(group) for group in groups]}
        return Result(facts, curve, device=str(backbone.device))

    def weights(self, result: Result) -> Weights:
        """The learned weights, in the order of the modules."""
        signed, shares = bool(self.learning.signed), [tuple(row) for row in result.facts["weights"]]
        whole = tuple(math.fsum(column) / len(shares) for column in zip(*shares, strict=True))
        layers = [tuple(group) for group in result.facts["groups"]]
        if len(shares) == 1:
            return Weights(modules=whole, signed=signed)
        groups = tuple(LayerWeights(layers=own, modules=row) for own, row in zip(layers, shares, strict=True))
        return Weights(modules=whole, groups=groups, signed=signed)


def learn(
    modules: Sequence[Module],
    rows: Sequence[Example],
    backbone: Backbone,
    *,
    summed: bool,
    text_format: TextFormat,
    learning: Learning,
    scale: float = 1.0,
    seed: int = 0,
    parts: Sequence[int] = (),
) -> tuple[list[list[float]], list[tuple[str, ...]], list[dict[str, float]]]:
    """The weights of every group of layers, (G, N); the groups; and a curve of losses.

    `summed`: as in `Mixture`. Half of the rows, drawn by `seed`, are learned on; the state with the lowest loss on the
    other half is kept, the equal weights of the beginning among them. `parts`: as in `LearnUnit`; rows that belong
    together are in one half. Raises `SettingError` for fewer than two rows, or if all of them belong together,
    `MergeError` if no loss is finite.
    """
    items = backbone.encode([(row.text, row.target) for row in rows], text_format)
    learned_on, stopped_on = ([items[index] for index in half] for half in split_rows(rows, seed=seed, parts=parts))
    groups = layer_groups(modules, learning.groups)
    mixture = Mixture(modules, backbone, groups=groups, summed=summed, scale=scale)
    free = torch.full((len(groups), len(modules)), 1 / len(modules) if learning.signed else 0.0, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=PACES[learning.signed])
    best, stale, curve, kept = math.inf, 0, [], _shares(free, learning)
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                loss = float(mixture.loss(_shares(free, learning), stopped_on))
            curve.append({"step": step, "loss": loss})
            if loss < best:
                best, stale, kept = loss, 0, _shares(free, learning)
            else:
                stale += 1
            if stale >= PATIENCE or step == STEPS:
                break
        some = _batch(learned_on, step)
        shares = _shares(free, learning)
        objective = mixture.loss(shares, some) + learning.l1 * shares.abs().sum(1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(objective)
        optimizer.step()
    if math.isinf(best):
        raise MergeError("no weights that were tried have a finite loss on the held-out rows; use another rule")
    return _exact_sums(kept.detach().double(), learning), groups, curve


def _batch(items: Sequence[Encoded], step: int) -> list[Encoded]:
    """The next rows of an endless round."""
    return [items[(step * BATCH + place) % len(items)] for place in range(min(BATCH, len(items)))]


def split_rows(rows: Sequence[Example], *, seed: int, parts: Sequence[int] = ()) -> tuple[list[int], list[int]]:
    """The rows to learn on, in the order in which they are read, and those to stop by: about a half each.

    `parts`: a number for every row; rows of one number are not divided.
    """
    part_of = parts or range(len(rows))
    order = seeded_order(rows, purpose="learn weights", seed=seed)
    sizes = Counter(part_of)
    first = list(dict.fromkeys(part_of[index] for index in order))
    if len(first) < 2:
        raise SettingError(
            "rule 'gradient' needs two held-out rows at least that do not belong together, to learn on and to stop by; "
            "add rows, or rows of other groups"
        )
    read = list(accumulate(sizes[part] for part in first))
    count = 1 + sum(rows_before < (len(rows) + 1) // 2 for rows_before in read[:-2])
    learned = set(first[:count])
    return (
        [index for index in order if part_of[index] in learned],
        sorted(index for index in order if part_of[index] not in learned),
    )


def layer_groups(modules: Sequence[Module], count: int) -> list[tuple[str, ...]]:
    """The numbered layers in `count` groups of neighbours, encoder and decoder each; one group is all layers.

    Raises `SettingError` for more groups than layers.
    """
    if count == 1:
        return [()]
    found = (re.match(r"(.*?\.)(\d+)\.", f"{name}.") for module in modules for name in module.parameters())
    stacks: dict[str, set[int]] = {}
    for match in filter(None, found):
        stacks.setdefault(match[1], set()).add(int(match[2]))
    if not stacks or count > min(map(len, stacks.values())):
        most = min(map(len, stacks.values()), default=0)
        raise SettingError(f"groups {count} is more than the {most} numbered layers that the modules adapt; lower it")
    groups: list[list[str]] = [[] for _ in range(count)]
    for stem, numbers in sorted(stacks.items()):
        for place, number in enumerate(sorted(numbers)):
            groups[place * count // len(numbers)].append(f"{stem}{number}")
    return [tuple(group) for group in groups]


class Mixture:
    """Σ w_i O_i as a stack of one, whose parameters are functions of the weights.

    `summed`: the updates are summed (ΔW of LoRA, factors side by side); otherwise the raw parameters are. `scale` is as
    in a blend.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        backbone: Backbone,
        *,
        groups: Sequence[tuple[str, ...]],
        summed: bool,
        scale: float = 1.0,
    ) -> None:
        self._backbone, self._scale, self._groups = backbone, scale, groups
        self._owners: dict[str, Tensor] = {}
        self._held: Mapping[str, Tensor]
        device = backbone.device
        base = self._side_by_side(modules) if summed else modules[0]
        if summed:
            self._held = {name: value.to(device) for name, value in base.parameters().items()}
        else:
            own = aligned_parameters(modules)
            self._held = {name: torch.stack([one[name] for one in own]).to(device) for name in own[0]}
        self._lora = isinstance(base, LoraModule)
        self._origin = {name: value.to(device) for name, value in base.origin(backbone).items()}
        self._stack = stack_of([base], backbone, dtype=torch.float32)
        self._own = dict(self._stack.parameters)

    def _side_by_side(self, modules: Sequence[Module]) -> LoraModule:
        base = Exact().merge(modules, Weights(modules=(1.0,) * len(modules), signed=True), Options())
        assert isinstance(base, LoraModule)  # the only kind of space "exact"
        own = [module for module in modules if isinstance(module, LoraModule)]
        for path in base.factors:
            ranks = [module.factors[path].a.shape[0] if path in module.factors else 0 for module in own]
            owners = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
            self._owners[f"{path}.b"] = owners.to(self._backbone.device)
        return base

    def loss(self, shares: Tensor, items: Sequence[Encoded]) -> Tensor:
        """The mean loss per target token with the weights (G, N); gradients reach them."""
        shares = shares.to(self._backbone.device)
        for name, own in self._own.items():
            mixed = self._mixed(name, shares).unsqueeze(0)
            # Without gradients, a stack may keep what it made of a tensor until that tensor changes in place.
            self._stack.parameters[name] = mixed if torch.is_grad_enabled() else own.copy_(mixed)
        lengths = [len(item.prompt) + len(item.target) for item in items]
        losses = []
        with self._stack.attach(self._backbone):
            for indices in plan_batches(lengths, budget=self._backbone.token_budget):
                batch = self._backbone.batch(items, indices)
                logits = self._backbone.target_logits(batch)
                losses.append(target_loss(logits, batch.gold.to(logits.device)).flatten())
        return torch.cat(losses).mean().cpu()

    def _mixed(self, name: str, shares: Tensor) -> Tensor:
        """One parameter with these weights, scaled as `scaled_parameters` scales it."""
        own, value = self._of(name, shares), self._held[name]
        if self._owners:
            columns = own[self._owners[name]] * self._scale if name in self._owners else own.new_ones(())
            return value.mul(columns)
        mixed: Tensor = torch.tensordot(own, value, 1)
        if self._scale == 1:
            return mixed
        if self._lora:
            return mixed.mul(self._scale if name.endswith(".b") else 1)
        return self._origin[name].add(mixed - self._origin[name], alpha=self._scale)

    def _of(self, name: str, shares: Tensor) -> Tensor:
        """The modules' weights in the layer of this parameter; outside all groups, their means."""
        if len(self._groups) == 1:
            return shares[0]
        for index, group in enumerate(self._groups):
            if any(name.startswith(f"{layer}.") for layer in group):
                return shares[index]
        return shares.mean(0)


def _shares(free: Tensor, learning: Learning) -> Tensor:
    """The weights (G, N): the free numbers themselves if they may have signs, else their softmax."""
    return free.clone() if learning.signed else free.softmax(1)


def _exact_sums(shares: Tensor, learning: Learning) -> list[list[float]]:
    """As numbers; on a simplex, they sum to 1 in float64, too."""
    if not bool(torch.isfinite(shares).all()):
        raise MergeError("the learned weights are not finite; use another rule, or fewer modules")
    found: list[list[float]] = (shares if learning.signed else shares / shares.sum(1, keepdim=True)).tolist()
    return found
