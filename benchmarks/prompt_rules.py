"""How much of a rule's lead is the luck of choosing it: `python benchmarks/prompt_rules.py FOLDER`.

Many rules rank the soft prompts of FOLDER (see docs/prompt-transfer.md) by parameters alone. The best of them looks
better than it is, so the choice is made on one backbone and measured on the other, and made anew without each target.
The rules are built from a few parts: a view of each prompt, the cosine or shared directions of two views, and products.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from headstart.embeddings.arrays import cosines
from headstart.ranking.evaluation import evaluate_ranking
from headstart.ranking.measured import MeasuredPrompts

Floats = NDArray[np.float64]
Rule = Callable[[Floats], Floats]


def unit(values: Floats) -> Floats:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


def signed_root(values: Floats) -> Floats:
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)))


VIEWS: dict[str, Callable[[Floats], Floats]] = {
    "mean": lambda prompts: prompts.mean(1),
    "median": lambda prompts: np.asarray(np.median(prompts, axis=1)),
    "trimmed mean": lambda prompts: np.asarray(np.sort(prompts, axis=1)[:, 10:-10].mean(1)),
    "mean of unit tokens": lambda prompts: unit(prompts).mean(1),
    "mean of signs": lambda prompts: np.sign(prompts).mean(1),
    "sign of mean": lambda prompts: np.sign(prompts.mean(1)),
    "root of mean": lambda prompts: signed_root(prompts.mean(1)),
    "ranks of mean": lambda prompts: np.asarray(rankdata(prompts.mean(1), axis=1) - (prompts.shape[2] + 1) / 2),
    "mean over deviation": lambda prompts: np.asarray(prompts.mean(1) / prompts.std(1)),
}
"""A vector for each prompt."""


def standardized(vectors: Floats) -> Floats:
    """Every dimension divided by its root mean square over the hub."""
    scaled = unit(vectors)
    return np.asarray(scaled / np.sqrt(np.square(scaled).mean(0)))


TREATMENTS: dict[str, Callable[[Floats], Floats]] = {
    "": lambda vectors: vectors,
    ", centred": lambda vectors: vectors - vectors.mean(0),
    ", unit centred": lambda vectors: unit(vectors) - unit(vectors).mean(0),
    ", dimensions scaled": standardized,
}
"""What the hub as a whole changes in the vectors."""


def by_cosine(view: str, treatment: str) -> Rule:
    def rule(prompts: Floats) -> Floats:
        vectors = TREATMENTS[treatment](VIEWS[view](prompts))
        return np.asarray(cosines(vectors, vectors))

    return rule


def by_span(directions: int, *, both: bool = False) -> Rule:
    """The share of a source's unit tokens in the target's leading directions, or of its own leading ones (`both`)."""

    def rule(prompts: Floats) -> Floats:
        tokens = unit(prompts)
        leading = np.linalg.svd(tokens, full_matrices=False)[2][:, :directions]
        sources = leading if both else tokens
        shares = [[np.square(source @ own.T).sum() / len(source) for source in sources] for own in leading]
        return np.asarray(shares)

    return rule


def by_moments(power: float) -> Rule:
    """The cosine of powers of the matrices Σ x xᵀ over unit tokens."""

    def rule(prompts: Floats) -> Floats:
        parts = [np.linalg.svd(tokens, full_matrices=False)[1:] for tokens in unit(prompts)]
        table = np.array(
            [
                [float((np.outer(s ** (2 * power), t ** (2 * power)) * np.square(v @ w.T)).sum()) for t, w in parts]
                for s, v in parts
            ]
        )
        size = np.sqrt(np.diag(table))
        return np.asarray(table / np.outer(size, size))

    return rule


def tried(prompts: Floats) -> dict[str, Floats]:
    """What every rule promises, (N, N), by the rule's name."""
    cosine = {f"{view}{how}": by_cosine(view, how)(prompts) for view, how in product(VIEWS, TREATMENTS)}
    parts: dict[str, Rule] = {f"span of {k}": by_span(k) for k in (1, 3, 5, 10, 20)}
    parts |= {f"shared {k} directions": by_span(k, both=True) for k in (1, 2, 3, 5, 10, 20)}
    parts |= {f"moments to the power {power:g}": by_moments(power) for power in (0.5, 1, 1.5, 2, 3)}
    shared = {name: rule(prompts) for name, rule in parts.items()}
    both = {f"{one} × {two}": cosine[one] * shared[two] for one, two in product(VIEWS, shared)}
    rows = prompts.reshape(len(prompts), -1)
    return {"all parameters": np.asarray(cosines(rows, rows)), **cosine, **shared, **both}


def measured(folder: Path, backbone: str) -> pd.DataFrame:
    """NDCG in hundredths, rows rules and columns targets."""
    real = MeasuredPrompts.read(folder, backbone)
    names = list(real.names)
    tables = {
        rule: pd.DataFrame(table, index=names, columns=names).loc[real.transfer.index]
        for rule, table in tried(real.prompts).items()
    }
    found = evaluate_ranking(tables, real.transfer, baseline=real.baseline, ks=(1,)).by_target
    wide = found.pivot_table(index="ranker", columns="target", values="ndcg", sort=False)
    return 100 * wide.loc[list(tables)]


def without_each(tables: Sequence[pd.DataFrame]) -> list[float]:
    """The mean NDCG on each backbone if the rule is chosen anew, by all others, for every target."""
    held: list[list[float]] = [[] for _ in tables]
    for target in dict.fromkeys(name for table in tables for name in table):
        rest = [table.drop(columns=target, errors="ignore").mean(axis=1) for table in tables]
        best = str(sum(rest[1:], start=rest[0]).idxmax())
        for values, table in zip(held, tables, strict=True):
            if target in table:
                values.append(float(table[target][best]))
    return [round(float(np.mean(values)), 1) for values in held]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbones", default="Roberta,T5")
    asked = parser.parse_args()
    names = asked.backbones.split(",")
    tables = [measured(asked.folder, name) for name in names]
    means = pd.DataFrame({name: table.mean(axis=1) for name, table in zip(names, tables, strict=True)})
    order = means.sum(axis=1).sort_values(ascending=False, kind="stable").index
    print(means.loc[order].round(1).to_string())
    best_of = {name: str(means[name].idxmax()) for name in names}
    print(
        json.dumps(
            {
                "rules": len(means),
                "quartiles": {name: means[name].quantile([0.25, 0.5, 0.75, 1]).round(1).tolist() for name in names},
                "best_of_both": {"rule": order[0], **means.loc[order[0]].round(1).to_dict()},
                "best_of_one": {
                    name: {"rule": best, **means.loc[best].round(1).to_dict()} for name, best in best_of.items()
                },
                "without_each_target": dict(zip(names, without_each(tables), strict=True)),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
