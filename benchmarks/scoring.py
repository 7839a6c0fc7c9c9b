"""Scoring many LoRA modules on SmolLM2-135M in one pass, against a loop over PEFT: `python benchmarks/scoring.py`.

64 modules (r = 8, q_proj and v_proj) and 32 examples of ARC-Easy in file order. Both sides get the same token ids and
find the loss and the cosine of every module, a mean over target tokens; both times include reading the modules from
disk. Each measurement runs in a process of its own, so that no side's memory or caches help or burden another.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from headstart.backbones import Backbone, Encoded, TextFormat
from headstart.backbones.loading import choose_device, choose_dtype
from headstart.indicators.engine import score
from headstart.kinds import LoraModule, LoraSettings, load_module, save_module
from headstart.kinds.lora import Factors
from headstart.tasks import Example, Task

ROOT = Path(__file__).parents[1]
sys.path.extend([str(ROOT), str(ROOT / "demo")])  # scripts, which are not part of the package
from benchmarks.machine import machine_kind, matrix_ceiling, peak_memory, synchronized  # noqa: E402
from fetch import fetch_backbone, fetch_task  # noqa: E402

RANK = 8
TARGETS = ("q_proj", "v_proj")
PEFT_BATCH = 8
TURNS = 4


@dataclass(frozen=True)
class Setting:
    """What every measurement gets: where things lie, and what to compute with."""

    backbone: Path
    folders: tuple[Path, ...]
    examples: tuple[Example, ...]
    device: str
    dtype: str


@dataclass(frozen=True)
class Found:
    """One side's times in seconds and, per module, mean loss (nats) and mean cosine over target tokens.

    `ceilings`: GFLOP/s of a large matrix product before and after every turn; `shares`: what each turn reached of the
    mean of the two around it.
    """

    reading: float
    passing: float
    losses: tuple[float, ...]
    cosines: tuple[float, ...]
    ceilings: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    peak_extra_gb: float | None = None

    @property
    def seconds(self) -> float:
        return self.reading + self.passing

    @property
    def ceiling(self) -> float | None:
        return statistics.median(self.ceilings) if self.ceilings else None

    @property
    def share(self) -> float | None:
        return statistics.median(self.shares) if self.shares else None


# --- the modules


def write_modules(backbone: Backbone, hub: Path, root: Path, *, count: int, seed: int) -> tuple[tuple[Path, ...], str]:
    """Write `count` distinct modules as PEFT folders; returns them and where they come from.

    Their strengths fall evenly from 1 to 1/count, so that losses differ by more than the rounding of bfloat16.
    """
    donors = [load_module(path.parent) for path in sorted(hub.glob("*/adapter_config.json"))]
    usable = [donor for donor in donors if isinstance(donor, LoraModule) and _paths(donor) == _paths(donors[0])]
    pairs = [pair for pair in combinations(usable, 2) if _rank(pair[0]) + _rank(pair[1]) == RANK]
    draw = random.Random(seed)
    draw.shuffle(pairs)  # so that every donor has a part in the first few dozen
    for number in range(count):
        strength = 1 - number / count
        name = f"module-{number:03d}"
        if pairs:
            weights = (share := draw.random(), 1 - share)
            module = mixed(pairs[number % len(pairs)], [strength * w for w in weights], name=name, backbone=backbone)
        else:
            module = random_module(backbone, name=name, strength=strength, seed=seed + number)
        save_module(module, root / name)
    source = f"mixed pairs of {len(usable)} tuned modules" if pairs else "random factors"
    return tuple(root / f"module-{number:03d}" for number in range(count)), source


def mixed(
    pair: tuple[LoraModule, LoraModule], weights: Sequence[float], *, name: str, backbone: Backbone
) -> LoraModule:
    """w₁·ΔW₁ + w₂·ΔW₂ as one module of the summed rank, exactly."""
    factors = {}
    for path in pair[0].factors:
        found = [module.factors[path] for module in pair]
        up = [weight * f.scaling * f.b for weight, f in zip(weights, found, strict=True)]
        factors[path] = Factors(torch.cat([f.a for f in found]), torch.cat(up, dim=1), 1.0)
    return LoraModule.build(factors, name=name, backbone=backbone, targets=TARGETS)


def random_module(backbone: Backbone, *, name: str, strength: float, seed: int) -> LoraModule:
    """Random factors; the strengths differ from module to module, and with them the losses."""
    fresh = LoraModule.fresh(backbone, LoraSettings(RANK, 16.0, TARGETS), name=name, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        key: torch.randn(value.shape, generator=generator) * 0.1 * strength if key.endswith(".b") else value
        for key, value in fresh.parameters().items()
    }
    return fresh.with_parameters(parameters)


def _paths(module: Any) -> set[str]:
    return set(module.factors) if isinstance(module, LoraModule) else set()


def _rank(module: LoraModule) -> int:
    return module.card.rank or 0


# --- Headstart


def headstart_pass(setting: Setting) -> Found:
    """Read the modules and score them in `TURNS` parts, in turns with what the machine could reach at most.

    Whatever else the machine does then slows the pass and the ceiling alike, and the spread over the turns tells it.
    """
    backbone = Backbone.load(setting.backbone, device=setting.device, dtype=setting.dtype)
    _ = backbone.fingerprint  # reads every weight: what is mapped from the file is resident from here on
    indicators = ("loss", "cosine")
    warm = load_module(setting.folders[0])
    ceilings, shares, parts = [], [], []
    passing = 0.0
    with peak_memory(backbone.device) as peak:
        score([warm], setting.examples[:1], backbone, indicators=indicators)
        started = synchronized(backbone.device)
        modules = [load_module(folder) for folder in setting.folders]
        for module in modules:
            module.check(backbone)
        reading = synchronized(backbone.device) - started
        items = encode(backbone, setting.examples)
        ceilings.append(matrix_ceiling(backbone.dtype, backbone.device))
        for turn in range(TURNS):
            part = modules[len(modules) * turn // TURNS : len(modules) * (turn + 1) // TURNS]
            begun = synchronized(backbone.device)
            parts.append(score(part, setting.examples, backbone, indicators=indicators))
            seconds = synchronized(backbone.device) - begun
            passing += seconds
            ceilings.append(matrix_ceiling(backbone.dtype, backbone.device))
            reached = needed_flops(backbone, items, part) / seconds / 1e9
            shares.append(reached / statistics.mean(ceilings[-2:]))
    return Found(
        reading=reading,
        passing=passing,
        losses=tuple(-value for part in parts for value in part.values["loss"]),
        cosines=tuple(value for part in parts for value in part.values["cosine"]),
        ceilings=tuple(ceilings),
        shares=tuple(shares),
        peak_extra_gb=peak() / 1e9,
    )


def needed_flops(backbone: Backbone, items: Sequence[Encoded], modules: Sequence[Any]) -> float:
    """Floating-point operations of the matrix products that the scores need, without padding.

    The layers' linear weights at every token, the lower triangle of the attention products, the low-rank updates at
    every token, and the head at the target positions. Elementwise work counts as time, not as operations.
    """
    lengths = [len(item.prompt) + len(item.target) - 1 for item in items]
    layers = [m for m in backbone.model.modules() if isinstance(m, nn.Linear) and m is not backbone.head]
    config = backbone.model.config
    width = int(config.num_attention_heads * config.head_dim)
    linear = sum(layer.weight.numel() for layer in layers) * sum(lengths)
    attention = int(config.num_hidden_layers) * width * sum(length * (length + 1) for length in lengths)
    head = sum(value.numel() for value in backbone.head.parameters()) * sum(len(item.target) for item in items)
    updates = sum(module.card.parameters for module in modules) * sum(lengths)
    return float(2 * (len(modules) * (linear + attention + head) + updates))


def encode(backbone: Backbone, examples: Sequence[Example]) -> list[Encoded]:
    """The ids that both sides see."""
    return backbone.encode([(example.input, example.target) for example in examples], TextFormat())


# --- the loop that a user of PEFT writes


def peft_loop(setting: Setting) -> Found:
    """One module after the other: load the adapter, forward in padded batches of 8, gather, delete the adapter.

    PEFT's defaults throughout, with two kindnesses: softmax only where there are labels, and one adapter and one
    forward pass of warming up that are not timed.
    """
    helper = Backbone.load(setting.backbone, device="cpu", dtype="float32")
    batches = padded_batches(encode(helper, setting.examples), pad_id=helper.pad_id)
    del helper
    device = choose_device(setting.device)
    dtype = choose_dtype(setting.dtype, device)
    backbone = AutoModelForCausalLM.from_pretrained(setting.backbone, dtype=dtype).to(device)
    model = PeftModel.from_pretrained(backbone, setting.folders[0], adapter_name="warm").eval()
    reading = passing = 0.0
    losses, cosines = [], []
    with torch.inference_mode():
        mean_loss_and_cosine(model, batches[:1], device)
        for folder in setting.folders:
            started = synchronized(device)
            model.load_adapter(folder, "current")
            model.set_adapter("current")
            read = synchronized(device)
            loss, cosine = mean_loss_and_cosine(model, batches, device)
            scored = synchronized(device)
            model.set_adapter("warm")
            model.delete_adapter("current")
            reading += read - started + synchronized(device) - scored
            passing += scored - read
            losses.append(loss)
            cosines.append(cosine)
    return Found(reading, passing, tuple(losses), tuple(cosines))


def padded_batches(items: Sequence[Encoded], *, pad_id: int) -> list[dict[str, torch.Tensor]]:
    """Batches of 8 in file order, padded on the right; labels are -100 wherever there is no target."""
    batches = []
    for start in range(0, len(items), PEFT_BATCH):
        chosen = items[start : start + PEFT_BATCH]
        rows = [(*item.prompt, *item.target) for item in chosen]
        width = max(map(len, rows))
        labels = [[-100] * len(item.prompt) + list(item.target) for item in chosen]
        batches.append(
            {
                "input_ids": torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows]),
                "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
                "labels": torch.tensor([row + [-100] * (width - len(row)) for row in labels]),
            }
        )
    return batches


def mean_loss_and_cosine(
    model: Any, batches: Sequence[dict[str, torch.Tensor]], device: torch.device
) -> tuple[float, float]:
    """Means over all target tokens of -log p[gold] and of p[gold] / ‖p‖."""
    losses, cosines = [], []
    for batch in batches:
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        labels = batch["labels"][:, 1:].to(device)
        log_p = logits[labels != -100].float().log_softmax(-1)
        gold = log_p.gather(1, labels[labels != -100].unsqueeze(1)).squeeze(1)
        losses.append(-gold)
        cosines.append(gold.exp() / log_p.exp().norm(dim=1))
    return float(torch.cat(losses).double().mean()), float(torch.cat(cosines).double().mean())


# --- the comparison


def compare(setting: Setting, *, baseline_modules: int, skip_fp32: bool) -> dict[str, Any]:
    """All measurements, one after the other, as one JSON object; None where something was not measured.

    `ratio_default` sets our default dtype against PEFT in float32, which is what PEFT's own instructions load a float32
    checkpoint in; `ratio_same_dtype` is the ratio when the loop, too, runs in our default dtype.
    """
    default = choose_dtype("auto", choose_device(setting.device))
    name = str(default).removeprefix("torch.")
    part = Setting(**{**vars(setting), "folders": setting.folders[:baseline_modules]})
    scale = len(setting.folders) / len(part.folders)
    both = name == "float32"
    ours = apart(headstart_pass, setting, name)
    theirs = apart(peft_loop, part, name)
    ours_fp32 = None if skip_fp32 else ours if both else apart(headstart_pass, setting, "float32")
    peft_fp32 = None if skip_fp32 else theirs if both else apart(peft_loop, part, "float32")
    facts: dict[str, Any] = {
        "ratio_fp32": None, "ratio_default": None, "ratio_same_dtype": scale * theirs.seconds / ours.seconds,
        "max_abs_diff": None, "same_top1": None, "ceiling_share": ours.share, "peak_extra_gb": ours.peak_extra_gb,
        "ceiling_share_spread": spread(ours.shares), "ceiling_gflops_spread": spread(ours.ceilings),
        "ceiling_share_fp32": None, "ceiling_gflops": ours.ceiling, "ceiling_gflops_fp32": None,
        "seconds": ours.seconds, "seconds_reading": ours.reading, "seconds_fp32": None,
        "seconds_peft": scale * theirs.seconds, "seconds_peft_loading": scale * theirs.reading,
        "seconds_peft_fp32": None, "seconds_peft_fp32_loading": None,
    }  # fmt: skip
    if ours_fp32 and peft_fp32:
        seconds = scale * peft_fp32.seconds
        facts |= {
            "ratio_fp32": seconds / ours_fp32.seconds, "ratio_default": seconds / ours.seconds,
            "max_abs_diff": max(abs(a - b) for a, b in zip(ours_fp32.losses, peft_fp32.losses, strict=False)),
            "same_top1": same_top1(ours, peft_fp32), "ceiling_share_fp32": ours_fp32.share,
            "ceiling_gflops_fp32": ours_fp32.ceiling, "seconds_fp32": ours_fp32.seconds,
            "seconds_peft_fp32": seconds, "seconds_peft_fp32_loading": scale * peft_fp32.reading,
            "loss_range": [min(peft_fp32.losses), max(peft_fp32.losses)],
            "top1_margin_loss": margin([-loss for loss in peft_fp32.losses]),
            "top1_margin_cosine": margin(peft_fp32.cosines),
        }  # fmt: skip
    if baseline_modules < len(setting.folders):
        facts["baseline_modules"] = len(part.folders)
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in facts.items()} | {
        "modules": len(setting.folders),
        "examples": len(setting.examples),
        "dtype": name,
    }


def apart(measure: Callable[[Setting], Found], setting: Setting, dtype: str) -> Found:
    """Measure in a fresh process, and say on the terminal what is under way."""
    print(f"{measure.__name__} in {dtype}, {len(setting.folders)} modules ...", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, Setting(**{**vars(setting), "dtype": dtype})).result()


def spread(values: Sequence[float]) -> list[float]:
    """The smallest and the largest."""
    return [float(f"{value:.4g}") for value in (min(values), max(values))]


def same_top1(ours: Found, theirs: Found) -> bool:
    """Whether both call the same module best, by loss and by cosine, among those that both scored."""
    count = len(theirs.losses)
    best = [
        (min(range(count), key=f.losses.__getitem__), max(range(count), key=f.cosines.__getitem__))
        for f in (ours, theirs)
    ]
    return best[0] == best[1]


def margin(values: Sequence[float]) -> float | None:
    """How far the best is above the second best."""
    first, *rest = sorted(values, reverse=True)
    return first - rest[0] if rest else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Score LoRA modules in one pass, against a loop over PEFT.")
    parser.add_argument("--modules", type=int, default=64)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--baseline-modules", type=int, help="time the loop on so many modules and scale (all)")
    parser.add_argument("--skip-fp32", action="store_true", help="only the default dtype; what needs float32 is null")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache", help="where fetched data lies (.cache)")
    parser.add_argument("--hub", type=Path, default=ROOT / "demo" / "hub", help="tuned modules to mix (demo/hub)")
    parser.add_argument("--seed", type=int, default=0, help="of the mixture of modules")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args()
    started = time.perf_counter()
    place = fetch_backbone(options.cache)
    task = Task.load(fetch_task(options.cache, "arc_easy"))
    examples = (*task.splits["dev"], *task.splits["test"])[: options.examples]
    with tempfile.TemporaryDirectory() as root:
        backbone = Backbone.load(place, device="cpu", dtype="float32")
        folders, source = write_modules(backbone, options.hub, Path(root), count=options.modules, seed=options.seed)
        tokens = sum(len(item.prompt) + len(item.target) - 1 for item in encode(backbone, examples))
        del backbone
        setting = Setting(place, folders, examples, options.device, "auto")
        found = compare(setting, baseline_modules=options.baseline_modules or len(folders), skip_fp32=options.skip_fp32)
    found |= {"tokens": tokens, "device": choose_device(options.device).type, "module_source": source}
    found["seconds_benchmark"] = round(time.perf_counter() - started)
    if options.json:
        print(json.dumps(found))
        return 0
    for key, value in (machine_kind() | found).items():
        print(f"{key:26} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
