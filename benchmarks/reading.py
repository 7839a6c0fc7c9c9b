"""How long reading and validating many modules takes, files warm: `python benchmarks/reading.py --modules 1000`."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.append(str(Path(__file__).parents[1]))  # scripts, which are not part of the package
from benchmarks.machine import cpu_model
from headstart.filenames import CONFIG_FILE, WEIGHTS_FILE
from headstart.formats import read_module

RANK = 8
HIDDEN = 576
WIDTHS = {"q_proj": 576, "v_proj": 192}
LAYERS = 17
"""SmolLM2-135M's attention shapes; 17 layers of float32 factors at rank 8 are 1.04 MB."""


def write_module(folder: Path, generator: np.random.Generator) -> None:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": sorted(WIDTHS)}
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    tensors = {}
    for layer in range(LAYERS):
        for target, width in WIDTHS.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{target}.lora_"
            tensors[f"{stem}A.weight"] = generator.standard_normal((RANK, HIDDEN), dtype=np.float32)
            tensors[f"{stem}B.weight"] = generator.standard_normal((width, RANK), dtype=np.float32)
    save_file(tensors, folder / WEIGHTS_FILE)


def read_all(folders: list[Path]) -> int:
    """Read as `headstart hub` does, in as many threads as cores; return the parameters seen."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return sum(pool.map(lambda folder: read_module(folder).card.parameters, folders))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=1000, help="number of modules of about 1 MB")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / f"module-{number:05d}" for number in range(options.modules)]
        for folder in folders:
            write_module(folder, generator)
        read_all(folders)
        started = time.perf_counter()
        read_all(folders)
        seconds = time.perf_counter() - started
        megabytes = sum((folder / WEIGHTS_FILE).stat().st_size for folder in folders) / 1e6
    if options.json:
        print(json.dumps({"modules": options.modules, "seconds": round(seconds, 4)}))
        return
    print(f"machine   {cpu_model()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"modules   {options.modules} ({megabytes:.0f} MB), warm")
    print(f"seconds   {seconds:.2f} ({options.modules / seconds:.0f} modules a second)")


if __name__ == "__main__":
    main()
