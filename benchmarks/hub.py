"""A hub of thousands of modules: adding them, listing a page, filtering, ranking: `python benchmarks/hub.py`.

5,000 LoRA modules of 1 MB for a tiny random backbone are made on the spot, in a temporary folder on the disk. Adding,
listing and filtering are timed as whole commands; of the commands that list, the best of five runs counts, for what
else the machine does is not the program's. Ranking runs in a process of its own: what its memory grows to above the
loaded backbone is read from the system. It keeps no scores, so that only the modules are measured.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from headstart.formats import read_module
from headstart.hub import Hub
from headstart.kinds import LoraModule, LoraSettings, save_module
from headstart.ranking.rank import rank
from headstart.records import TaskCard
from headstart.tasks import Example, Task
from headstart.testing import tiny_backbone

ROOT = Path(__file__).parents[1]
FAMILIES = ("reviews/films", "reviews/shops", "questions/science", "inference")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK = 546
"""Two layers, four targets of 32 × 32 in float32: 1.1 MB."""


def write_modules(folder: Path, count: int) -> list[Path]:
    """Module folders that differ in their values, their names and what their cards state."""
    fresh = LoraModule.fresh(tiny_backbone("llama"), LoraSettings(RANK, 2.0 * RANK, TARGETS), name="m", seed=0)
    drawn = {name: value.normal_(std=0.01) for name, value in fresh.parameters().items()}
    save_module(fresh.with_parameters(drawn), folder / "first")
    content = (folder / "first" / "adapter_model.safetensors").read_bytes()
    config = (folder / "first" / "adapter_config.json").read_bytes()
    shutil.rmtree(folder / "first")
    start = 8 + int.from_bytes(content[:8], "little")
    made = []
    for number in range(count):
        module = folder / f"module-{number:05}"
        module.mkdir()
        turned = 4 * (number + 1)
        data = content[start + turned :] + content[start : start + turned]
        (module / "adapter_model.safetensors").write_bytes(content[:start] + data)
        (module / "adapter_config.json").write_bytes(config)
        read_module(module).card.model_copy(update=facts(number)).write(module / "headstart.json")
        made.append(module)
    return made


def facts(number: int) -> dict[str, Any]:
    """What the card of a module states."""
    return {
        "family": FAMILIES[number % len(FAMILIES)],
        "task": f"task-{number % 50}",
        "license": "mit" if number % 3 else "apache-2.0",
        "metric": "ACC",
        "score": number % 97 / 97,
    }


def command(*words: object) -> float:
    """Seconds that one run of the program takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "headstart", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def added(hub: Path, modules: list[Path]) -> float:
    """Seconds of `headstart hub add`, in as many commands as their length allows."""
    return sum(command("hub", "add", hub, *part, "--json") for part in parts(modules, 2500))


def parts(modules: list[Path], size: int) -> Iterator[list[Path]]:
    for first in range(0, len(modules), size):
        yield modules[first : first + size]


def best(*words: object) -> float:
    return min(command(*words) for _ in range(5))


def rank_here(hub: Path) -> float:
    """GB that ranking takes above what the process takes with the backbone loaded and the hub opened."""
    backbone, opened = tiny_backbone("llama"), Hub.open(hub)
    rows = tuple(Example(f"row {number} is", ("good" if number % 2 else "bad",), None) for number in range(2))
    task = Task(TaskCard(name="rows"), {"dev": rows})
    before = psutil.Process().memory_info().rss
    ranking = rank(task, opened, backbone, indicators=("cosine",), rows=2, store=False)
    assert len(ranking.modules) == len(opened), ranking.refused[:1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return float(peak - before) / 1e9


def measure(count: int, folder: Path) -> dict[str, Any]:
    modules = write_modules(folder, count)
    size = sum(path.stat().st_size for path in modules[0].iterdir())
    hub = folder / "hub"
    os.sync()  # or adding would be timed with the writing of what is added
    add_seconds = added(hub, modules)
    for module in modules:
        shutil.rmtree(module)
    found = {
        "modules": count,
        "module_mb": round(size / 1e6, 2),
        "add_seconds": round(add_seconds, 1),
        "list_seconds": round(best("hub", "list", hub), 3),
        "filter_seconds": round(
            best("hub", "list", hub, "--family", "reviews", "--license", "mit", "--text", "7", "--sort", "-score"), 3
        ),
    }
    began = time.perf_counter()
    words = [sys.executable, __file__, "--rank", str(hub)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return found | {
        "rank_peak_extra_gb": round(float(done.stdout.splitlines()[-1]), 2),
        "rank_seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Add, list, filter and rank a hub of many modules.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--modules", type=int, default=5000, help="how many")
    parser.add_argument("--folder", type=Path, help="where to put them for the time being (12 GB for 5,000)")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank:
        print(rank_here(asked.rank))
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory(prefix="hub-benchmark-", dir=asked.folder) as folder:
        found = measure(asked.modules, Path(folder))
    print(json.dumps(found) if asked.json else "\n".join(f"{key:20} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
