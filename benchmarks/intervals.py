"""Whether intervals and claims hold: simulated comparisons with known effects, `python benchmarks/intervals.py`.

Every study has two methods (or five, for claims on several at once), S seeds and R test rows. What a method answers on
a row with a seed depends on its level, on the row (shared by all methods, and the method's own), on the seed and on
both together; all are normal. The true difference is known by integration: over these very seeds where there are
fewer than 6, else over all. Studies are seeded, so that the tables in docs/statistics.md can be repeated; `--table`
prints them.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from headstart.statistics.differences import ENOUGH_SEEDS, Difference, difference
from headstart.statistics.holm import holm
from headstart.statistics.resampling import resampled
from headstart.tasks import METRICS

Floats = NDArray[np.float64]
ALPHA = 0.05
ROUNDING = 1e-12
LABELS = ("a", "b", "c")
SHARES = np.array([0.5, 0.3, 0.2])
DRAWS = 1_000
TOGETHER = 20
"""Studies that are scored on the same draws of rows, in one matrix product."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(41)


@dataclass(frozen=True)
class Setting:
    """One kind of study.

    `effect`: how far the second method's level is above the first's, in standard deviations of a single answer.
    `seed`, `row`, `both`: variances of what a seed, a row of the method's own and both together add; the row's shared
    part always has variance 1. `group`: rows that are drawn, and alike, together.
    """

    metric: str = "ACC"
    seeds: int = 3
    rows: int = 150
    effect: float = 0.0
    seed: float = 0.05
    row: float = 0.3
    both: float = 0.5
    level: float = 1.0
    group: int = 1
    methods: int = 2


def truth(setting: Setting, level: Floats) -> Floats:
    """The metric on endless rows of a method whose level on a seed is `level` (…)."""
    spread = math.sqrt(1 + setting.row + setting.both)
    if setting.metric == "Pearson-Correlation":
        # y = x + noise of size spread·e^(−level): the higher the level, the less noise.
        return np.asarray(1 / np.sqrt(1 + (spread * np.exp(-level)) ** 2))
    right = ndtr(level / spread)
    if setting.metric == "ACC":
        return np.asarray(right)
    # A wrong answer is the next label. F1 of k: 2·π_k·right / (π_k + answers that are k).
    answered = SHARES * right[..., None] + np.roll(SHARES, 1) * (1 - right[..., None])
    return np.asarray((2 * SHARES * right[..., None] / (SHARES + answered)).mean(-1))


def answers(setting: Setting, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """One study: the parts of every method, seed and row (methods, S, R, K), and the methods' levels (methods, S)."""
    groups = -(-setting.rows // setting.group)
    shape = (setting.methods, setting.seeds)

    def rows(*lead: int) -> Floats:
        """Normal numbers for each row, of which rows of one group share half."""
        own = generator.standard_normal((*lead, setting.rows))
        if setting.group == 1:
            return own
        shared = np.repeat(generator.standard_normal((*lead, groups)), setting.group, axis=-1)[..., : setting.rows]
        return math.sqrt(0.5) * (own + shared)

    offsets = np.zeros(setting.methods)
    offsets[1:] = setting.effect
    levels = setting.level + offsets[:, None] + math.sqrt(setting.seed) * generator.standard_normal(shape)
    noise = rows()[None, None, :] + math.sqrt(setting.row) * rows(setting.methods)[:, None, :]
    noise = noise + math.sqrt(setting.both) * rows(*shape)
    if setting.metric == "Pearson-Correlation":
        x = generator.standard_normal(setting.rows)
        y = x + noise * np.exp(-levels)[..., None]
        x = np.broadcast_to(x, y.shape)
        return np.stack([x, y, x * x, y * y, x * y, np.zeros_like(y)], axis=-1), levels
    right = noise + levels[..., None] > 0
    wanted = generator.choice(len(LABELS), size=setting.rows, p=SHARES)
    said = np.where(right, wanted, (wanted + 1) % len(LABELS))
    table = (
        METRICS[setting.metric]
        .parts(  # type: ignore[misc]
            [said for _ in LABELS for said in LABELS], [(target,) for target in LABELS for _ in LABELS]
        )
        .reshape(len(LABELS), len(LABELS), -1)
    )
    return table[np.broadcast_to(wanted, said.shape), said], levels


def studies(setting: Setting, count: int) -> Iterator[tuple[list[Difference], list[float]]]:
    """So many studies: each later method against the first, and the true differences."""
    metric = METRICS[setting.metric]
    assert metric.whole is not None
    groups = np.arange(setting.rows) // setting.group
    shape = (setting.methods, setting.seeds)
    for first in range(0, count, TOGETHER):
        numbers = range(first, min(first + TOGETHER, count))
        made = [answers(setting, np.random.default_rng([number, *shape, setting.rows])) for number in numbers]
        lists = [part for parts, _ in made for part in parts.reshape(-1, *parts.shape[2:])]
        drawn = resampled(lists, metric.whole, groups, draws=DRAWS, seed=first).reshape(len(made), *shape, -1)
        for own, (parts, levels) in zip(drawn, made, strict=True):
            observed = metric.whole(parts.sum(2), np.array(float(setting.rows)))
            yield (
                [
                    difference(
                        observed[method] - observed[0], own[method] - own[0],
                        groups=int(groups[-1]) + 1, rows=setting.rows, counted=metric.counted,
                    )
                    for method in range(1, setting.methods)
                ],
                true_differences(setting, levels),
            )  # fmt: skip


def true_differences(setting: Setting, levels: Floats) -> list[float]:
    """Each later method less the first, on endless rows: over these seeds, or over endless seeds from 6 on."""
    if setting.seeds < ENOUGH_SEEDS:
        over = truth(setting, levels).mean(1)
    else:
        nodes = setting.level + math.sqrt(setting.seed) * NODES
        offsets = [0.0, *[setting.effect] * (setting.methods - 1)]
        over = np.array([truth(setting, nodes + offset) @ (WEIGHTS / WEIGHTS.sum()) for offset in offsets])
    return [float(each - over[0]) for each in over[1:]]


def measure(setting: Setting, count: int = 1_000) -> dict[str, float]:
    """Shares of the studies: intervals that hold the truth; any false win; any false win or loss; the effect shown."""
    covered = false_wins = false_claims = shown = 0
    for found, truths in studies(setting, count):
        adjusted = holm([each.p for each in found])
        low, high = found[0].interval()
        covered += low <= truths[0] <= high
        signs = [math.copysign(p <= ALPHA, each.mean) for p, each in zip(adjusted, found, strict=True)]
        false = [sign for sign, true in zip(signs, truths, strict=True) if sign and sign * true <= ROUNDING]
        false_wins += any(sign > 0 for sign in false)
        false_claims += bool(false)
        shown += signs[0] * truths[0] > ROUNDING
    shares = {"covered": covered, "false_wins": false_wins, "false_claims": false_claims, "shown": shown}
    return {name: number / count for name, number in shares.items()}


METRICS_TRIED = ("ACC", "Classification-F1", "Pearson-Correlation")
ROWS_TRIED = (50, 150, 1000)
EFFECTS_TRIED = (0.0, 0.5)


def grid_name(metric: str, seeds: int, rows: int, effect: float) -> str:
    return f"{metric}, {seeds} seeds, {rows} rows, effect {effect:g}"


def settings() -> dict[str, Setting]:
    """The settings of the tables, by name: a grid, and then those that are special in something."""
    found = {}
    for metric, rows, effect in product(METRICS_TRIED, ROWS_TRIED, EFFECTS_TRIED):
        for seeds in (1, 3, 6, 10):
            # Over a few seeds, their own difference is the true one: it is 0 only where seeds are all alike.
            own = 0.0 if seeds < ENOUGH_SEEDS and not effect else 0.05
            found[grid_name(metric, seeds, rows, effect)] = Setting(metric, seeds, rows, effect, seed=own)
    ten = Setting(seeds=10)
    return found | {
        "seeds differ much": replace(ten, seed=0.5),
        "seeds differ much, 6 seeds": replace(ten, seed=0.5, seeds=6),
        "seeds do not differ": replace(ten, seed=0.0),
        "rows differ much": replace(ten, row=2.0),
        "only what seed and row do together": replace(ten, seed=0.0, row=0.0, both=2.0),
        "groups of 5 rows": replace(ten, group=5),
        "groups of 5 rows, 3 seeds": replace(ten, group=5, seeds=3, seed=0.0),
        "groups of 5 rows, macro F1": replace(ten, group=5, metric="Classification-F1"),
        "nearly equal answers, 1 seed, 50 rows": replace(ten, seeds=1, rows=50, seed=0.0, row=0.01, both=0.01),
        "nearly all right, 1 seed, 50 rows": replace(
            ten, seeds=1, rows=50, level=2.0, effect=0.5, seed=0.0, row=0.1, both=0.1
        ),
        "nearly all right, 1 seed, 150 rows": replace(ten, seeds=1, level=2.0, effect=0.5, seed=0.0, row=0.1, both=0.1),
        "nearly all right, 3 seeds, 150 rows": replace(
            ten, seeds=3, level=2.0, effect=0.5, seed=0.0, row=0.1, both=0.1
        ),
        "nearly all right, 10 seeds, 150 rows, an effect": replace(
            ten, level=2.0, effect=0.5, seed=0.0, row=0.1, both=0.1
        ),
        "nearly all right, 10 seeds, 150 rows": replace(ten, level=2.5, row=0.1, both=0.1),
        "4 comparisons, 3 seeds": replace(ten, methods=5, seeds=3, seed=0.0),
        "4 comparisons, 6 seeds": replace(ten, methods=5, seeds=6),
        "4 comparisons, 10 seeds": replace(ten, methods=5),
        "4 comparisons, 10 seeds, macro F1": replace(ten, methods=5, metric="Classification-F1"),
        "4 comparisons, 10 seeds, Pearson": replace(ten, methods=5, metric="Pearson-Correlation"),
    }


def tables(found: Mapping[str, Mapping[str, float]]) -> str:
    """The results as two tables of Markdown: the grid, and the settings that are special in something."""
    lines = [f"| metric | seeds | {' | '.join(f'{rows} rows' for rows in ROWS_TRIED)} |", "|---|---|---|---|---|"]
    for metric, seeds in product(METRICS_TRIED, (1, 3, 6, 10)):
        cells = []
        for rows in ROWS_TRIED:
            none, some = (found.get(grid_name(metric, seeds, rows, effect)) for effect in EFFECTS_TRIED)
            shares = (none["covered"], some["covered"], none["false_wins"]) if none and some else ()
            cells.append(" / ".join(f"{share:.1%}" for share in shares) or "not run")
        lines.append(f"| {metric} | {seeds} | {' | '.join(cells)} |")
    lines += ["", "| setting | intervals that hold the truth | false wins | false wins or losses | effect shown |"]
    lines.append("|---|---|---|---|---|")
    special = [name for name in found if ", effect " not in name]
    for name in special:
        cells = [f"{found[name][key]:.1%}" for key in ("covered", "false_wins", "false_claims", "shown")]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--table", action="store_true", help="print tables of Markdown")
    parser.add_argument("--only", default="", help="only settings whose names hold this text")
    parser.add_argument("--studies", type=int, default=1_000, help="simulated studies a setting")
    asked = parser.parse_args()
    began, found = time.monotonic(), {}
    for name, setting in settings().items():
        if asked.only not in name:
            continue
        found[name] = measure(setting, asked.studies)
        print(name, found[name], file=sys.stderr, flush=True)
    if asked.table:
        print(tables(found))
    if asked.json:
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"studies": asked.studies, "seconds": seconds, "settings": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
