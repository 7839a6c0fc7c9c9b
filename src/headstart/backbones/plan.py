"""Which examples share a forward pass: sorted by length, so that there is hardly any padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.backbones.encoding import Encoded

__all__ = ["TargetBatch", "pad", "plan_batches"]

PASS_COST = 48
"""What one more forward pass costs besides its tokens, in tokens: measured on SmolLM2-135M, 2 cores, bfloat16."""
MOST_LOGIT_ROWS = 4096


@dataclass(frozen=True, eq=False)
class TargetBatch:
    """One forward pass of B examples with M target tokens in all.

    `inputs`: the backbone's inputs, each (B, T). `rows` (M,): where, in the flattened (B·T) decoder positions, the
    logits of each target token are. `gold` (M,): the target tokens. `owner` (M,): which example, 0…B-1, each belongs
    to. `indices`: the examples' positions in the list that was planned.
    """

    indices: tuple[int, ...]
    inputs: dict[str, Tensor]
    rows: Tensor
    gold: Tensor
    owner: Tensor

    @property
    def positions(self) -> int:
        """B·T, the number of decoder positions that one module computes."""
        return self.inputs["decoder_input_ids" if "decoder_input_ids" in self.inputs else "input_ids"].numel()


def plan_batches(
    lengths: Sequence[int],
    *,
    budget: int,
    pass_cost: float = PASS_COST,
    targets: Sequence[int] | None = None,
    most_targets: int = MOST_LOGIT_ROWS,
) -> list[list[int]]:
    """Group positions 0…n-1 into batches of at most `budget` tokens, padding included, as cheaply as possible.

    Examples that share a batch are neighbours in length. Of all such groupings, this is one with the least cost: the
    tokens computed, plus `pass_cost` for each batch, so that padding is weighed against another pass. `lengths` are in
    tokens. `targets`, the rows of logits per example, sum to at most `most_targets` per batch. A single example beyond
    a limit gets its own batch. The longest come first, so that a batch too large for memory fails at the start.

    >>> plan_batches([3, 9, 3, 9], budget=20)
    [[1, 3], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    cheapest, starts = [0.0], [0]
    for end in range(1, len(order) + 1):
        costs: dict[int, float] = {}
        rows = 0
        for start in range(end - 1, -1, -1):
            area = lengths[order[start]] * (end - start)
            rows += targets[order[start]] if targets is not None else 0
            if costs and (area > budget or rows > most_targets):
                break
            costs[start] = cheapest[start] + area + pass_cost
        best = min(costs, key=lambda start: costs[start])
        cheapest.append(costs[best])
        starts.append(best)
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]


def pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Stack id lists into one (B, T) tensor, padded with `value` on the right or the left."""
    width = max(len(row) for row in rows)
    padded = [
        [value] * (width - len(row)) + list(row) if left else list(row) + [value] * (width - len(row)) for row in rows
    ]
    return torch.tensor(padded, dtype=torch.long)


def causal_batch(items: Sequence[Encoded], indices: Sequence[int], *, pad_id: int) -> TargetBatch:
    """Prompt and target in one row, padded on the right; a causal mask hides padding, so no padding mask is sent."""
    chosen = [items[index] for index in indices]
    ids = pad([item.prompt + item.target[:-1] for item in chosen], pad_id)
    starts = [row * ids.shape[1] + len(item.prompt) - 1 for row, item in enumerate(chosen)]
    return _batch(indices, chosen, {"input_ids": ids}, starts)


def seq2seq_batch(items: Sequence[Encoded], indices: Sequence[int], *, pad_id: int, start_id: int) -> TargetBatch:
    """Encoder inputs with their mask, decoder inputs shifted by the start token."""
    chosen = [items[index] for index in indices]
    decoder = pad([(start_id, *item.target[:-1]) for item in chosen], pad_id)
    inputs = {
        "input_ids": pad([item.prompt for item in chosen], pad_id),
        "attention_mask": pad([[1] * len(item.prompt) for item in chosen], 0),
        "decoder_input_ids": decoder,
    }
    return _batch(indices, chosen, inputs, [row * decoder.shape[1] for row in range(len(chosen))])


def _batch(
    indices: Sequence[int], chosen: Sequence[Encoded], inputs: dict[str, Tensor], starts: Sequence[int]
) -> TargetBatch:
    rows = torch.cat(
        [torch.arange(start, start + len(item.target)) for start, item in zip(starts, chosen, strict=True)]
    )
    gold = torch.tensor([token for item in chosen for token in item.target], dtype=torch.long)
    owner = torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor([len(item.target) for item in chosen]))
    return TargetBatch(tuple(indices), inputs, rows, gold, owner)
