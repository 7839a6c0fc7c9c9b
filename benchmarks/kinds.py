"""Scoring 32 prefixes, IA3 modules and prompts in one pass each, against PEFT: `python benchmarks/kinds.py`.

SmolLM2-135M in float32, 16 examples of ARC-Easy in file order; loss of every module, mean over target tokens; both
times include reading the modules from disk. The loop uses PEFT's defaults: one adapter after the other, batches of 8.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[1]
sys.path.extend([str(ROOT), str(ROOT / "demo")])  # scripts, which are not part of the package
from benchmarks.machine import machine_kind  # noqa: E402
from benchmarks.scoring import encode, padded_batches  # noqa: E402
from fetch import fetch_backbone, fetch_task  # noqa: E402
from headstart.backbones import Backbone  # noqa: E402
from headstart.indicators.engine import score  # noqa: E402
from headstart.kinds import fresh_module, load_module, save_module  # noqa: E402
from headstart.tasks import Example, Task  # noqa: E402

KINDS = ("prefix", "ia3", "prompt")


def write_modules(kind: str, backbone: Backbone, root: Path, *, count: int) -> list[Path]:
    """Modules with random values that change the backbone's function."""
    folders = []
    for number in range(count):
        module = fresh_module(kind, backbone, {}, name=f"{kind}-{number:02d}", seed=number)
        generator = torch.Generator().manual_seed(number)
        noisy = {
            name: value
            + 0.1 * value.std().nan_to_num(1.0).clamp(min=0.1) * torch.randn(value.shape, generator=generator)
            for name, value in module.parameters().items()
        }
        folders.append(root / f"{kind}-{number:02d}")
        save_module(module.with_parameters(noisy), folders[-1])
    return folders


def ours(backbone: Backbone, folders: list[Path], examples: tuple[Example, ...]) -> tuple[float, list[float]]:
    began = time.perf_counter()
    modules = [load_module(folder) for folder in folders]
    losses = [-value for value in score(modules, examples, backbone, indicators=["loss"]).values["loss"]]
    return time.perf_counter() - began, losses


def theirs(
    backbone: Backbone, source: Path, folders: list[Path], examples: tuple[Example, ...]
) -> tuple[float, list[float]]:
    batches = padded_batches(encode(backbone, examples), pad_id=backbone.pad_id)
    bare = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model = PeftModel.from_pretrained(bare, folders[0], adapter_name="first").eval()
    losses = []
    began = time.perf_counter()
    with torch.inference_mode():
        for folder in folders:
            model.load_adapter(folder, folder.name)
            model.set_adapter(folder.name)
            losses.append(mean_loss(model, batches))
            model.set_adapter("first")
            model.delete_adapter(folder.name)
    return time.perf_counter() - began, losses


def mean_loss(model: Any, batches: list[dict[str, torch.Tensor]]) -> float:
    found = []
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits = logits[:, -batch["input_ids"].shape[1] :][:, :-1]  # a prompt's own positions come first
        labels = batch["labels"][:, 1:]
        log_p = logits[labels != -100].log_softmax(-1)
        found.append(-log_p.gather(1, labels[labels != -100].unsqueeze(1)).squeeze(1))
    return float(torch.cat(found).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--modules", type=int, default=32)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache")
    asked = parser.parse_args()
    source, task = fetch_backbone(asked.cache), Task.load(fetch_task(asked.cache, "arc_easy"))
    backbone = Backbone.load(source, device="cpu", dtype="float32")
    examples = task.test[: asked.examples]
    results: dict[str, Any] = {"modules": asked.modules, "examples": asked.examples}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as root:
            folders = write_modules(kind, backbone, Path(root), count=asked.modules)
            ours(backbone, folders[:1], examples[:1])
            seconds, found = ours(backbone, folders, examples)
            peft_seconds, expected = theirs(backbone, source, folders, examples)
        difference = max(abs(one - other) for one, other in zip(found, expected, strict=True))
        results[kind] = {
            "ratio": round(peft_seconds / seconds, 3),
            "max_abs_diff": float(f"{difference:.3g}"),
            "seconds": round(seconds, 2),
            "seconds_peft": round(peft_seconds, 2),
            "loss_range": [round(min(found), 3), round(max(found), 3)],
        }
        if not asked.json:
            print(kind, results[kind], flush=True)
    if not asked.json:
        print(machine_kind())
    print(json.dumps(results))


if __name__ == "__main__":
    main()
