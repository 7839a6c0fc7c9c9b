"""How long a query takes in one exact matrix of 5,000 and of 100,000 vectors; with `--lancedb N`, in a table of N.

Random vectors around random centres: 1,024 numbers, as a family of tasks would lie. Each query is timed warm, whole:
the product, the order, near-duplicates grouped, a filter that leaves half. Medians over the queries, in milliseconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.ranking.nearest import VectorIndex

DIMENSION, QUERIES, LIMIT = 1024, 30, 20


def drawn(count: int, *, seed: int = 0, among: int | None = None) -> NDArray[np.float32]:
    """`count` vectors around count / 50 centres, float32; with `among`, around the centres of so many of seed 0."""
    draw = np.random.default_rng(seed if among is None else 0)
    centres = draw.normal(size=(max((among or count) // 50, 1), DIMENSION)).astype(np.float32)
    draw = draw if among is None else np.random.default_rng(seed)
    found = centres[draw.integers(len(centres), size=count)]
    for start in range(0, count, 10_000):  # in blocks, so that memory holds one copy
        block = found[start : start + 10_000]
        block += draw.normal(size=block.shape).astype(np.float32)
    return found


def milliseconds(query: Callable[[NDArray[np.float32]], object], queries: NDArray[np.float32]) -> float:
    """The median time of a warm query."""
    query(queries[0])
    taken = []
    for each in queries:
        began = time.perf_counter()
        query(each)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def exact(count: int) -> dict[str, float]:
    """Times of the exact search: of all vectors, and of every second one."""
    vectors = drawn(count)
    began = time.perf_counter()
    index = VectorIndex(vectors)
    built = time.perf_counter() - began
    queries, half = drawn(QUERIES, seed=1), np.arange(0, count, 2)
    return {
        f"ms_{count}": milliseconds(lambda query: index.nearest(query, limit=LIMIT), queries),
        f"ms_{count}_filtered": milliseconds(lambda query: index.nearest(query, limit=LIMIT, allowed=half), queries),
        f"build_s_{count}": built,
    }


def approximate(count: int) -> dict[str, float]:
    """Times of LanceDB, and how many of the exact search's vectors it finds; near-duplicates are not grouped.

    Queries are asked twice: around the centres of the vectors, as tasks of known families are, and around others.
    """
    from headstart.ranking.lance import LanceIndex

    vectors = drawn(count)
    asked = {"like_some": drawn(QUERIES, seed=1, among=count), "like_none": drawn(QUERIES, seed=1)}
    truth = VectorIndex(vectors)
    with TemporaryDirectory() as folder:
        began = time.perf_counter()
        index = LanceIndex(vectors, Path(folder) / "lance")
        built = time.perf_counter() - began
        found = {f"lancedb_build_s_{count}": built}
        for name, queries in asked.items():
            taken = [milliseconds(partial(each.nearest, limit=LIMIT), queries) for each in (index, truth)]
            found |= {f"lancedb_ms_{count}_{name}": taken[0], f"exact_ms_{count}_{name}": taken[1]}
            found[f"lancedb_recall_{count}_{name}"] = statistics.mean(_share(truth, index, query) for query in queries)
    return found


def _share(truth: VectorIndex, index: Any, query: NDArray[np.float32]) -> float:
    """Which share of the nearest vectors an index finds."""
    wanted, found = (
        {group.position for group in each.nearest(query, limit=LIMIT, near=1.0)} for each in (truth, index)
    )
    return len(wanted & found) / LIMIT


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--lancedb", type=int, metavar="N", help="Measure LanceDB on N vectors, too; minutes.")
    given = parser.parse_args()
    found: dict[str, Any] = {"dimension": DIMENSION, "queries": QUERIES, "limit": LIMIT}
    for count in (5_000, 100_000):
        found |= exact(count)
    if given.lancedb:
        found |= approximate(given.lancedb)
    found = {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}
    print(json.dumps(found) if given.json else "\n".join(f"{name:24} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
