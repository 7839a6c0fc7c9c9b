"""The pass of the bare backbone that serves the projection indicators of any number of modules."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from headstart.backbones import Encoded, TargetBatch, attached
from headstart.indicators.contract import ProjectionIndicator
from headstart.indicators.passes import Workload
from headstart.indicators.projection import sizes
from headstart.kinds.updates import LowRank, Update

__all__ = ["MOST_HELD_BYTES", "Projections"]

EXACT_DEVICES = ("cpu", "cuda")
"""The types of devices that are known to add up in float64; Apple's GPUs cannot."""
MOST_HELD_BYTES = 2**29
"""The most bytes held of the modules' updates; with more modules than fit, there is another pass for those left."""

Site = tuple[str, bool]
"""A layer's path, and whether its output is meant rather than its input."""


@dataclass(frozen=True, eq=False)
class _Held:
    """What one indicator holds of the updates of some modules at one site; `columns` are those modules' positions."""

    indicator: ProjectionIndicator
    columns: Tensor
    prepared: Tensor


@dataclass
class Projections:
    """The updates of many modules, and what they give in one pass of the bare backbone.

    Activations are projected as soon as a layer has computed them and are not kept, so a pass takes the memory of the
    updates and of one batch, whatever the number of examples.
    """

    work: Workload
    indicators: Sequence[ProjectionIndicator]
    modules: list[int] = field(default_factory=list)
    bytes: int = 0
    _sites: dict[Site, list[_Held]] = field(default_factory=lambda: defaultdict(list))

    def add(self, modules: Mapping[int, Mapping[str, Update]]) -> None:
        """Take the updates of some modules, by their positions in the caller's list."""
        columns = {position: len(self.modules) + order for order, position in enumerate(modules)}
        self.modules += modules
        alike: dict[tuple[Site, Hashable], dict[int, Update]] = defaultdict(dict)
        for position, updates in modules.items():
            for path, update in updates.items():
                alike[(path, _after(update)), _form(update)][columns[position]] = update
        for (site, _), members in alike.items():
            self._hold(site, members)

    def _hold(self, site: Site, members: Mapping[int, Update]) -> None:
        changing = (sizes(list(members.values())) > 0).tolist()
        kept = {column: update for (column, update), keep in zip(members.items(), changing, strict=True) if keep}
        if not kept:
            return
        columns = torch.tensor(list(kept), device=self._sums_on)
        for indicator in self.indicators:
            prepared = indicator.prepare(list(kept.values())).to(self.work.backbone.device)
            self.bytes += prepared.nbytes
            self._sites[site].append(_Held(indicator, columns, prepared))

    @property
    def _sums_on(self) -> torch.device:
        """Where values are added up: on the backbone's device if it can, since there are many."""
        device = self.work.backbone.device
        return device if device.type in EXACT_DEVICES else torch.device("cpu")

    def run(self, report: Callable[[int], None]) -> dict[ProjectionIndicator, Tensor]:
        """The values by indicator, (modules, examples), float64; NaN where nothing of a module was read.

        `report` is called after each batch with its number of examples times that of the modules.
        """
        shape = (len(self.work.items), len(self.modules))
        sums = {one: torch.zeros(shape, dtype=torch.float64, device=self._sums_on) for one in self.indicators}
        layers = torch.zeros(shape, dtype=torch.float64, device=self._sums_on)
        if self._sites:
            for batch in self.work.batches(tuple(range(len(self.work.items))), 1):
                self._read(batch, sums, layers)
                report(len(batch.indices) * len(self.modules))
        return {one: (found / layers).T.cpu() for one, found in sums.items()}

    def _read(self, batch: TargetBatch, sums: Mapping[ProjectionIndicator, Tensor], layers: Tensor) -> None:
        backbone = self.work.backbone
        batch, owners = _with_owners(batch, self.work.items, whole=backbone.encoder.whole)
        summing = self._sums_on
        rows = torch.tensor(batch.indices, device=summing)

        def take(site: Site, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x = output if site[1] else args[0]
            x = x.flatten(0, -2) if x.is_floating_point() else x.flatten()
            owner = batch.owner if layer is backbone.head else owners[len(x)]
            text = (owner >= 0).nonzero().squeeze(1)
            x, owner = x[text.to(x.device)], owner[text].to(summing)
            counts = torch.zeros(len(rows), dtype=torch.float64, device=summing)
            counts.index_add_(0, owner, torch.ones_like(owner, dtype=torch.float64))
            for held in self._sites[site]:
                values = held.indicator.per_token(held.prepared, x).to(summing).double()
                means = torch.zeros(len(rows), len(held.columns), dtype=torch.float64, device=summing)
                means.index_add_(0, owner, values)
                where = (rows.unsqueeze(1), held.columns)
                sums[held.indicator][where] += means / counts.clamp(min=1).unsqueeze(1)
                if held.indicator is self.indicators[0]:
                    layers[where] += (counts > 0).double().unsqueeze(1)

        def hooks() -> Iterator[RemovableHandle]:
            for site in self._sites:
                yield backbone.model.get_submodule(site[0]).register_forward_hook(partial(take, site))

        with torch.inference_mode(), attached(hooks()):
            backbone.read(batch)


def _after(update: Update) -> bool:
    return not isinstance(update, LowRank) and update.after


def _form(update: Update) -> Hashable:
    """Equal for updates that are prepared together."""
    return type(update), *(tuple(part.shape) for part in update if isinstance(part, Tensor))


def _with_owners(batch: TargetBatch, items: Sequence[Encoded], *, whole: bool) -> tuple[TargetBatch, dict[int, Tensor]]:
    """The batch, and to which of its examples each of the rows that a layer reads belongs, -1 for padding.

    By the number of rows: B for what reads one vector of each example, B·T for what reads tokens. Those of an encoder
    and of its decoder must differ to be told apart, so the encoder's are padded by one more token if they do not.
    """
    chosen = [items[index] for index in batch.indices]
    inputs = dict(batch.inputs)
    decoder = inputs.get("decoder_input_ids")
    if decoder is not None and inputs["input_ids"].shape[1] == decoder.shape[1]:
        inputs |= {name: functional.pad(inputs[name], (0, 1)) for name in ("input_ids", "attention_mask")}
    owners = {len(chosen): torch.arange(len(chosen))}
    if decoder is not None:
        owners |= _owners([len(item.target) for item in chosen], decoder.shape[1])
    read = [len(item.prompt) + (0 if whole else max(0, len(item.target) - 1)) for item in chosen]
    return replace(batch, inputs=inputs), owners | _owners(read, inputs["input_ids"].shape[1])


def _owners(lengths: Sequence[int], width: int) -> dict[int, Tensor]:
    own = torch.arange(len(lengths)).unsqueeze(1).expand(-1, width)
    owner = own.where(torch.arange(width) < torch.tensor(lengths).unsqueeze(1), -1).flatten()
    return {len(owner): owner}
