"""What a fit found, in the terminal: the verdict, the guard's table, the best modules."""

import math

import pandas as pd
from rich.console import Console
from rich.text import Text

from headstart.comparing.comparison import SCRATCH
from headstart.comparing.decision import CONTROL, CONTROL_MEANS
from headstart.comparing.decision import spoken as named
from headstart.evaluating.loss_unit import NATS
from headstart.fitting.record import FitRecord
from headstart.fitting.verdict import ALPHA
from headstart.reports.cells import DASH, MEANS, fixed_text, number_text
from headstart.reports.console import print_table
from headstart.tuning.lane import LAST_BEST

__all__ = ["fit_table", "print_fit"]

_TOP = 5


def print_fit(record: FitRecord, console: Console) -> None:
    """Print the verdict first, then its evidence, the best modules, and the score of what was saved."""
    said = " ".join(filter(None, [record.sentence, record.remedy, record.lacks]))
    console.print(Text(f"On {record.task.name}: {said}"))
    print_table(fit_table(record), console, title="On held-out examples")
    console.print(Text(_guard_means(record), style="dim"))
    if CONTROL in set(record.frames["methods"]["method"]):
        console.print(Text(CONTROL_MEANS, style="dim"))
    ranking = record.frames["ranking"]
    shown = ranking.drop(columns=["task", "license", "why"], errors="ignore").head(_TOP)
    print_table(shown, console, title=f"Modules, best {len(shown)} of {len(ranking)}{_weighed(record)}")
    bare = record.settings.get("bare", math.nan)
    if (indicator := record.settings.get("indicator")) and not math.isnan(bare):
        meaning = f"; {MEANS[indicator]}" if indicator in MEANS else ""
        said = f"{indicator}: higher is better{meaning}; the bare backbone has {number_text(bare, digits=3)}."
        console.print(Text(said, style="dim"))
    for module, reason in record.frames["refused"][["module", "reason"]].itertuples(index=False):
        console.print(Text(f"left out {module}: {reason}"))
    rows = f"{record.rows:,} {record.split} rows" + ("" if record.split == "test" else ", which chose its state")
    score = f"{record.task.metric} {fixed_text(record.score, 4)}"
    console.print(Text(f"The saved module: {score} on {rows}{_known(record)}."))
    for note in record.notes:
        if note.startswith(LAST_BEST):
            console.print(Text(note))


def _guard_means(record: FitRecord) -> str:
    """What the guard did, and what its losses are."""
    steps = record.settings.get("recipe", {}).get("max_steps")
    tuned = f"for up to {steps} steps " if steps else ""
    loss = "the squared error of a row"
    if record.settings.get("loss_unit") == NATS:
        labels = record.task.labels
        guess = f" (a guess among {len(labels)} classes costs {math.log(len(labels)):.3f})" if labels else ""
        loss = f"−ln of the probability given to the right answer, in nats{guess}"
    starts = len(set(record.frames["methods"]["method"]) - {SCRATCH, CONTROL})
    together = (
        f", corrected for {starts} starts (Holm); of several that may be used, the lowest loss decides"
        if starts > 1
        else ""
    )
    return (
        f"The guard tuned each method {tuned}on a part of the examples, and each answered the rest; loss: {loss}. "
        f"A win has p ≤ {ALPHA}, one-sided{together}."
    )


def _known(record: FitRecord) -> str:
    """How surely the saved module's score is known, and how its answers are calibrated."""
    low, high = record.score_interval
    known = "" if math.isnan(low) else f" (95 % interval over rows {low:.3f} to {high:.3f})"
    method = record.settings.get("chosen_calibration", "none")
    return known + (f", calibrated by {method}" if method != "none" else "")


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
