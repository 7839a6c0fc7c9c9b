"""Tuning one module through Headstart's loop and through PEFT with the same loop: `python benchmarks/tuning.py`.

SmolLM2-135M, batches of 8 examples of SST-2, AdamW, gradients clipped, no evaluation. Both sides take the same
batches, begin from the same saved module and take their steps in turns, so that a change of the machine's pace meets
both. PEFT computes logits at every position, as its users' loops do; for LoRA and IA3, whose layers PEFT puts into the
model itself, a second ratio lets it compute those at the target positions only, as Headstart does.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

ROOT = Path(__file__).parents[1]
sys.path.extend([str(ROOT), str(ROOT / "demo")])  # scripts, which are not part of the package
from benchmarks.kinds import write_modules  # noqa: E402
from benchmarks.machine import machine_kind  # noqa: E402
from fetch import fetch_backbone, fetch_task  # noqa: E402
from headstart.backbones import Backbone, TargetBatch, TextFormat, plan_batches, target_loss  # noqa: E402
from headstart.kinds import load_module, stack_of  # noqa: E402
from headstart.tasks import Task  # noqa: E402

KINDS = ("lora", "ia3", "prefix", "prompt")
INSIDE = ("lora", "ia3")
"""Kinds whose layers PEFT puts into the model, which then can be run like the bare one."""
BATCH, LR, CLIP = 8, 1e-4, 1.0

Step = Callable[[TargetBatch], float]


def stepper(parameters: list[Tensor], logits_of: Callable[[TargetBatch], Tensor]) -> Step:
    """One update on a batch, as `headstart.tune` makes it; returns the loss."""
    optimizer = torch.optim.AdamW(parameters, lr=LR)

    def step(batch: TargetBatch) -> float:
        loss = target_loss(logits_of(batch), batch.gold).mean()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


@contextlib.contextmanager
def ours(backbone: Backbone, folder: Path) -> Iterator[Step]:
    stack = stack_of([load_module(folder)], backbone, dtype=torch.float32)
    parameters = [value.requires_grad_(True) for value in stack.parameters.values()]
    with stack.attach(backbone):
        yield stepper(parameters, backbone.target_logits)


@contextlib.contextmanager
def theirs(backbone: Backbone, source: Path, folder: Path, *, targets_only: bool) -> Iterator[Step]:
    bare = AutoModelForCausalLM.from_pretrained(source, dtype=backbone.dtype)
    frozen = {id(value) for value in bare.parameters()}
    model = PeftModel.from_pretrained(bare, folder).eval()
    parameters = [value for value in model.parameters() if id(value) not in frozen]
    inside = Backbone(bare, backbone.tokenizer, name="inside PEFT")
    for value in parameters:  # everything else stays frozen
        value.requires_grad_(True)
    if targets_only:
        yield stepper(parameters, inside.target_logits)
        return

    def logits_of(batch: TargetBatch) -> Tensor:
        ids = batch.inputs["input_ids"]
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        return logits[:, -ids.shape[1] :].flatten(0, 1)[batch.rows].unsqueeze(0)

    yield stepper(parameters, logits_of)


def compared(one: Step, other: Step, batches: list[TargetBatch], *, rounds: int) -> tuple[list[float], float]:
    """Seconds of `one` divided by those of `other`, for each round over the batches, and their losses' difference."""
    ratios, apart = [], 0.0
    for turn in range(rounds + 1):
        seconds = [0.0, 0.0]
        for batch in batches:
            losses = [0.0, 0.0]
            for side in (0, 1) if turn % 2 else (1, 0):
                began = time.perf_counter()
                losses[side] = (one, other)[side](batch)
                seconds[side] += time.perf_counter() - began
            apart = max(apart, abs(losses[0] - losses[1])) if turn == 0 else apart
        if turn:  # the first round warms up
            ratios.append(seconds[0] / seconds[1])
    return ratios, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    source, task = fetch_backbone(asked.cache), Task.load(fetch_task(asked.cache, "sst2"))
    backbone = Backbone.load(source, device="cpu", dtype=asked.dtype)
    pairs = [(row.input, row.target) for row in task.train[: asked.batches * BATCH]]
    items = backbone.encode(pairs, TextFormat())
    plan = plan_batches([1] * len(items), budget=BATCH)
    batches = [backbone.batch(items, indices) for indices in plan]
    results: dict[str, Any] = {"dtype": asked.dtype, "batches": len(batches), "rounds": asked.rounds}
    for kind in KINDS:
        results[kind] = {}
        for name, targets_only in (("ratio", False), ("ratio_targets_only", True))[: 2 if kind in INSIDE else 1]:
            with tempfile.TemporaryDirectory() as root:
                (folder,) = write_modules(kind, backbone, Path(root), count=1)
                with (
                    ours(backbone, folder) as one,
                    theirs(backbone, source, folder, targets_only=targets_only) as other,
                ):
                    ratios, apart = compared(one, other, batches, rounds=asked.rounds)
            results[kind][name] = round(statistics.median(ratios), 3)
            results[kind][f"{name}_spread"] = [round(min(ratios), 3), round(max(ratios), 3)]
            results[kind]["first_losses_apart"] = float(f"{apart:.3g}")
        if not asked.json:
            print(kind, results[kind], flush=True)
    if not asked.json:
        print(machine_kind())
    print(json.dumps(results))


if __name__ == "__main__":
    main()
