"""What a fit found, in the terminal: the verdict, the guard's table, the best modules."""

import math

import pandas as pd
from rich.console import Console
from rich.text import Text

from headstart.comparing.comparison import SCRATCH
from headstart.comparing.decision import CONTROL, CONTROL_MEANS
from headstart.comparing.decision import spoken as named
from headstart.fitting.record import FitRecord
from headstart.reports.cells import DASH, fixed_text, number_text
from headstart.reports.console import print_table

__all__ = ["fit_table", "print_fit"]

_TOP = 5


def print_fit(record: FitRecord, console: Console) -> None:
    """Print the verdict first, then its evidence, the best modules, and the score of what was saved."""
    said = " ".join(filter(None, [record.sentence, record.remedy, record.lacks]))
    console.print(Text(f"On {record.task.name}: {said}"))
    print_table(fit_table(record), console, title="On held-out examples")
    if CONTROL in set(record.frames["methods"]["method"]):
        console.print(Text(CONTROL_MEANS, style="dim"))
    ranking = record.frames["ranking"]
    shown = ranking.drop(columns=["task", "license", "why"], errors="ignore").head(_TOP)
    print_table(shown, console, title=f"Modules, best {len(shown)} of {len(ranking)}{_weighed(record)}")
    for module, reason in record.frames["refused"][["module", "reason"]].itertuples(index=False):
        console.print(Text(f"left out {module}: {reason}"))
    rows = f"{record.rows:,} {record.split} rows" + ("" if record.split == "test" else ", which chose its state")
    console.print(Text(f"The saved module: {record.task.metric} {fixed_text(record.score, 4)} on {rows}."))


def _weighed(record: FitRecord) -> str:
    """Of which start the weights are."""
    if not record.leader or record.frames["ranking"]["weight"].isna().all():
        return ""
    return f"; weights in {named(record.leader)}{'' if record.choice == 'use' else ', which was not used'}"


def fit_table(record: FitRecord) -> pd.DataFrame:
    """A line per method: loss and score on the held-out rows, the gain over scratch, and what it is against both."""
    rows = []
    for method in record.frames["methods"].to_dict("records"):
        name = str(method["method"])
        gain, control = (record.contrast(name, other) for other in (SCRATCH, CONTROL))
        known = gain is not None and not math.isnan(gain["difference"])
        ends = [number_text(gain[end], digits=3) for end in ("difference", "low", "high")] if known and gain else []
        rows.append(
            {
                "method": name, "loss": fixed_text(float(method["loss"]), 4),
                record.task.metric: fixed_text(float(method["score"]), 4),
                "gain over scratch": f"{ends[0]} [{ends[1]}, {ends[2]}]" if ends else DASH,
                "against scratch": str(gain["outcome"]) if gain else DASH,
                "against random": str(control["outcome"]) if control else DASH,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
