"""Run every benchmark and keep the results with the kind of machine: `python benchmarks/run.py [names]`.

Each `benchmarks/<name>.py --json` prints one JSON object as its last line; they go to `benchmarks/results/<date>.json`.
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER.parent))
from benchmarks.machine import machine_kind  # noqa: E402 - found once the repository's root is on the path

NOT_BENCHMARKS = {
    "__init__", "abstaining", "big_bench", "halve", "machine", "prompt_rules", "run", "transfer", "transfer_tables",
}  # fmt: skip
"""The rest of the folder: what the benchmarks share, and studies that need data or modules of yours."""


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_BENCHMARKS)


def run(name: str) -> dict[str, Any] | None:
    """What the benchmark found, or None when it failed; its own messages go through to the terminal."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        print(f"{name}: failed with status {done.returncode}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks and write benchmarks/results/<date>.json.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"which ones (all: {', '.join(names())})")
    asked = parser.parse_args().names or names()
    if unknown := sorted(set(asked) - set(names())):
        parser.error(f"no benchmark is called {', '.join(unknown)}; choose from: {', '.join(names())}")
    results = {}
    for name in asked:
        print(f"{name} ...", flush=True)
        results[name] = run(name)
        for key, value in (results[name] or {}).items():
            print(f"  {key:22} {value}")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = FOLDER / "results" / f"{today}.json"
    path.parent.mkdir(exist_ok=True)
    # A day's file keeps what the other benchmarks found when only some are run again on the same kind of machine.
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kind = machine_kind()
    kept = before.get("results", {}) if before.get("machine") == kind else {}
    record = {"date": today, "machine": kind, "results": kept | results}
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return int(any(found is None for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
