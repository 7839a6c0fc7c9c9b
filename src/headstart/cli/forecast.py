"""`--dry-run`: what a command would compute, and about how long it would take."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.output import print_json, print_line, print_rows
from headstart.showing import capitalized, duration_text

if TYPE_CHECKING:
    from headstart.units import Forecast

__all__ = ["DryRunOption", "show_forecast"]

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Compute nothing: say what would be computed, and about how long that takes.")
]


UNITS = {
    "score": "one indicator of one module on the task's examples",
    "merge": "one blend of modules",
    "tune": "one tuning",
    "evaluate": "one module's answers to some rows",
    "embed": "one module's vector, for a search or a map",
    "weigh": "weights of a blend, on held-out rows",
    "learn": "weights of a blend, by gradient",
}
"""What the types of units are, for people."""


def show_forecast(call: Callable[..., Any], *, as_json: bool) -> "Forecast":
    """Print what `call`, which takes `engine` and `progress`, would compute, and return it."""
    # Here: commands that only look at a hub do not plan any work.
    from headstart.units import foresee

    forecast = foresee(call)
    if as_json:
        print_json({"dry_run": True, **forecast.to_json()})
        return forecast
    for each in forecast.left_out:
        print_line(f"left out {each.name}: {each.reason}", error=True)
    if not forecast.expected:
        print_line("Nothing would be computed: no unit of work is needed.")
        return forecast
    rows = [
        {
            "unit": f"{each.type}, later" if each.later else each.type,
            "to compute": f"{'up to ' if each.later else ''}{each.compute:,}",
            "in the store": "not known yet" if each.later else f"{each.stored:,}",
            "tokens": f"{each.tokens:,}",
            "time": _range(each.seconds) if each.tokens or each.measured else "",
        }
        for each in forecast.expected
    ]
    print_rows(rows, tuple(rows[0]), whole=tuple(rows[0]))
    kinds = dict.fromkeys(each.type for each in forecast.expected)
    told = [f"{name}: {UNITS[name]}" for name in kinds if name in UNITS]
    print_line(f"Units of work: {'; '.join(told)}.")
    if any(each.later for each in forecast.expected):
        print_line("Later: what these units begin from is computed first, so they could not be looked up in the store.")
    time = _range(forecast.seconds)
    about = capitalized(time) if time.startswith("under") else f"About {time}"
    print_line(f"{about} in one process ({forecast.basis}).")
    print_line("This was a dry run: nothing was computed or written.")
    return forecast


def _range(seconds: tuple[float, float]) -> str:
    """The time from low to high, once if both read alike."""
    low, high = map(duration_text, seconds)
    return high if low == high else f"{low} to {high}"
