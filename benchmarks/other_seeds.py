"""Does an embedding find a task's module of another seed? `python benchmarks/other_seeds.py HUB OTHERS`.

Both are folders of modules, one for each task by its name: those of `demo/hub` began from one seed, those of
`benchmarks/seeds`, tuned on the same tasks, from another. Each of OTHERS is a query to HUB, which holds one module of
its task.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from headstart.embeddings import embed
from headstart.kinds import load_module

EMBEDDINGS = ("tupate", "flat", "canonical", "gram")


def vectors(folder: Path, names: Sequence[str], embedding: str) -> np.ndarray:
    """Of the modules of a folder, one in a row, each scaled to length 1."""
    found = np.stack([embed(load_module(folder / name), embedding, store=False).values for name in names])
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def compared(hub: Path, others: Path) -> pd.DataFrame:
    """By embedding, the mean cosines and the place of the module of the query's own task."""
    names = sorted(each.parent.name for each in hub.glob("*/adapter_config.json"))
    names = [name for name in names if (others / name / "adapter_config.json").exists()]
    rows = []
    for embedding in EMBEDDINGS:
        own, queries = vectors(hub, names, embedding), vectors(others, names, embedding)
        cosines, within = queries @ own.T, own @ own.T
        apart = ~np.eye(len(names), dtype=bool)
        places = 1 + (cosines > np.diag(cosines)[:, None]).sum(1)
        rows.append(
            {
                "embedding": embedding, "modules": len(names), "numbers": own.shape[1],
                "same task, other seed": np.diag(cosines).mean(),
                "other task, other seed": cosines[apart].mean(), "other task, same seed": within[apart].mean(),
                "place of its task (mean)": places.mean(), "first": int((places == 1).sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hub", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    asked = parser.parse_args(words)
    found = compared(asked.hub, asked.others)
    print(json.dumps(found.to_dict("records")) if asked.json else found.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
