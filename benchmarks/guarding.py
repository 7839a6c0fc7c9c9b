"""How often the guard uses a start when nothing helps, and when one does, in simulated studies with known effects.

    python benchmarks/guarding.py [--trials 300] [--draws 1000] [--rows 32 64] [--json]

Every study has scratch, the random module, and three starts, of which the last gains `gain` nats a row. Rows differ in
difficulty, which all methods share; beside it, a method's loss of a row varies with a standard deviation of 0.35 nats
(Student's t with 4 degrees of freedom: some rows are far off), so that of two methods' difference is 0.5. `tuning` is
the standard deviation, in nats, of what a fold's tuning adds to all losses of a method in that fold; `alike` is the
correlation of these numbers between a method's folds, whose tunings have rows in common.
"""

import argparse
import json
from functools import partial
from itertools import product
from unittest.mock import patch

import numpy as np

from headstart.fitting import verdict
from headstart.fitting.verdict import Held, decide_start
from headstart.statistics.resampling import resampled
from headstart.tasks import Example

ROWS, GAINS = (32, 64, 128, 256), (0.0, 0.1, 0.2, 0.4)
TUNINGS = ((0.0, 0.0), (0.07, 0.0), (0.07, 0.25))
"""The standard deviation of a tuning, and the correlation between folds."""
FOLDS = 4


def study(draw: np.random.Generator, *, rows: int, gain: float, tuning: float, alike: float) -> str:
    """The method that the guard names in one study."""
    common, fold = draw.gamma(0.5, 1.2, rows), np.arange(rows) % FOLDS

    def held(better: float) -> Held:
        own = draw.standard_t(4, rows) * 0.35 / np.sqrt(2)
        tuned = np.sqrt(1 - alike) * draw.standard_normal(FOLDS) + np.sqrt(alike) * draw.standard_normal()
        return Held(common + own + tuning * tuned[fold] - better, ("yes",) * rows)

    examples = [Example(str(row), ("yes",)) for row in range(rows)]
    answers = {name: held(0.0) for name in ("scratch", "random", "average", "best_single")}
    return decide_start({**answers, "ensemble": held(gain)}, examples, metric="ACC", folds=fold.tolist()).method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--draws", type=int, default=1_000, help="of each bootstrap; the guard itself takes 10,000")
    parser.add_argument("--rows", type=int, nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = []
    for place, (rows, (tuning, alike), gain) in enumerate(product(ROWS, TUNINGS, GAINS)):
        if rows not in asked.rows:
            continue
        draw = np.random.default_rng(place)
        with patch.object(verdict, "resampled", partial(resampled, draws=asked.draws)):
            named = [study(draw, rows=rows, gain=gain, tuning=tuning, alike=alike) for _ in range(asked.trials)]
        used = sum(name != "scratch" for name in named) / asked.trials
        right = sum(name == "ensemble" for name in named) / asked.trials
        found.append({"rows": rows, "tuning": tuning, "alike": alike, "gain": gain, "used": used, "right": right})
        if not asked.json:
            said = f"a start is used in {used:.3f}, the best in {right:.3f}"
            print(f"{rows:4d} rows  tuning {tuning:.2f} alike {alike:.2f}  gain {gain:.1f}: {said}", flush=True)
    if asked.json:
        print(json.dumps({"trials": asked.trials, "studies": found}))


if __name__ == "__main__":
    main()
