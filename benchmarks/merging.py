"""Merging 100 LoRA modules of SmolLM2-135M's shapes: `python benchmarks/merging.py`.

30 layers, q_proj 576→576 and v_proj 576→192, rank 8, random values; all times include the ΔW error that is reported.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))  # a script, which is not part of the package
from benchmarks.machine import machine_kind
from headstart.blending import merge, uniform
from headstart.kinds import LoraModule
from headstart.kinds.lora import Factors

LAYERS, RANK, WIDTH = 30, 8, 576
OUTPUTS = {"q_proj": 576, "v_proj": 192}


def module(index: int, generator: torch.Generator) -> LoraModule:
    factors = {
        f"model.layers.{layer}.self_attn.{name}": Factors(
            torch.randn(RANK, WIDTH, generator=generator) / WIDTH**0.5,
            torch.randn(outputs, RANK, generator=generator) / 10,
            2.0,
        )
        for layer in range(LAYERS)
        for name, outputs in OUTPUTS.items()
    }
    return LoraModule.build(factors, name=f"m{index}", backbone=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--modules", type=int, default=100)
    parser.add_argument(
        "--core", nargs="*", default=["core"], help="spaces of Core Space to time: core core_ties core_tsv core_iso"
    )
    asked = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    modules = [module(index, generator) for index in range(asked.modules)]
    merge(modules[:2], uniform(2))  # the first call of a linear-algebra routine loads it
    found: dict[str, float | int] = {"modules": asked.modules}
    for space, rank in (("parameters", None), ("svd", RANK), *((space, RANK) for space in asked.core)):
        began = time.perf_counter()
        merged = merge(modules, uniform(len(modules)), space=space, rank=rank)
        found[f"{space}_seconds"] = round(time.perf_counter() - began, 3)
        found[f"{space}_error"] = round(merged.error or 0.0, 4)
    if not asked.json:
        print(machine_kind())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
