"""Tasks of BIG-bench as folders: `python benchmarks/big_bench.py TASK … --sdist bigbench-1.0.0.tar.gz -o tasks`.

Only tasks whose examples all have the same options: each becomes a classification. The archive comes from
`pip download --no-deps bigbench==1.0.0` (358 MB; Apache-2.0; Srivastava et al. 2022).
"""

import argparse
import json
import random
import sys
import tarfile
from pathlib import Path
from typing import Any

from headstart.atomic import staged_folder
from headstart.errors import HeadstartError, TaskError
from headstart.records import TaskCard

SEED = 42
SHARES = {"train": 0.4, "dev": 0.2, "test": 0.4}
"""The share of the shuffled rows that each split gets."""


def main(arguments: list[str] | None = None) -> int:
    """Write every task named on the command line, and print its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--sdist", type=Path, required=True, help="bigbench-1.0.0.tar.gz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder that the tasks' folders go to")
    asked = parser.parse_args(arguments)
    try:
        for name in asked.tasks:
            print(write_task(name, read_examples(asked.sdist, name), asked.output / name), flush=True)
    except HeadstartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read_examples(sdist: Path, name: str) -> list[dict[str, Any]]:
    """The examples of the task's JSON file in the archive."""
    wanted = f"/benchmark_tasks/{name}/task.json"
    try:
        with tarfile.open(sdist) as archive:
            for member in archive:
                packed = archive.extractfile(member) if member.name.endswith(wanted) else None
                if packed is not None:
                    return list(json.load(packed)["examples"])
    except (OSError, tarfile.TarError) as error:
        how = "`pip download --no-deps bigbench==1.0.0` fetches it"
        raise TaskError(f"cannot read {sdist} ({error}); {how}") from error
    raise TaskError(f"{sdist} holds no JSON task '{name}'")


def write_task(name: str, examples: list[dict[str, Any]], folder: Path) -> Path:
    """`task.json` and one JSON-lines file per split, always in the same order; a folder that exists stays."""
    if folder.is_dir():
        return folder
    if not all("target_scores" in example for example in examples):
        raise TaskError(f"'{name}' has examples without options; choose a multiple-choice task")
    options = {tuple(sorted(example["target_scores"])) for example in examples}
    if len(options) != 1:
        raise TaskError(f"the examples of '{name}' have {len(options)} sets of options; choose a task with one")
    rows = [(example["input"].strip(), best(example["target_scores"])) for example in examples]
    rows = list(dict.fromkeys(rows))
    random.Random(SEED).shuffle(rows)
    card = TaskCard(
        name=name,
        family="Classification / Other",
        metric="ACC",
        labels=options.pop(),
        options="labels",
        license="Apache-2.0",
        source="bigbench 1.0.0",
    )
    with staged_folder(folder) as staging:
        card.write(staging / "task.json")
        total, start = len(rows), 0
        for split, share in SHARES.items():
            chosen, start = rows[start : start + round(total * share)], start + round(total * share)
            lines = (json.dumps({"input": text, "output": [answer]}, ensure_ascii=False) for text, answer in chosen)
            (staging / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def best(scores: dict[str, float]) -> str:
    """The one option with the highest score."""
    return max(sorted(scores), key=lambda option: scores[option])


if __name__ == "__main__":
    sys.exit(main())
