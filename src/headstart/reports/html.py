"""A comparison as a folder: one self-contained page, its plots as PNG, its tables as CSV, and the record as JSON."""

import base64
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from headstart.atomic import staged_folder
from headstart.comparing.comparison import FRAMES, Comparison
from headstart.reports import plots
from headstart.reports.cells import (
    DASH,
    Footnotes,
    cell_text,
    common_decimals,
    defused,
    fixed_text,
    number_text,
    summary_cells,
)
from headstart.reports.tables import (
    chosen_indicator,
    curve_table,
    differences,
    effective_modules,
    main_metric,
    missing_table,
    ranking_table,
    seed_scores,
    settings_table,
    starts_table,
    summary,
)
from headstart.reports.verdict import verdict

__all__ = ["write_report"]

_TOP = 50
_DPI = 160


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write the report to the new `folder`, completely or not at all.

    The folder holds report.html (opens anywhere, loads nothing); the plots ranking.png, weights.png, scores.png and
    curves.png (a plot without data is left out); the tables summary.csv, ranking.csv, scores.csv, curves.csv and
    refused.csv, where an apostrophe precedes any text that a spreadsheet would take for a formula; and comparison.json,
    from which `Comparison.from_json` restores everything.

    Raises:
        OutputError: `folder` exists or cannot be written.
        CardError: the comparison holds what JSON cannot.
    """
    with staged_folder(folder) as staging:
        (staging / "comparison.json").write_text(comparison.to_json(), encoding="utf-8")
        results = {"summary": summary(comparison), "ranking": ranking_table(comparison)}
        recorded = {name: getattr(comparison, name) for name in ("scores", "curves", "refused")}
        for name, frame in (results | recorded).items():
            defused(frame).to_csv(staging / f"{name}.csv", index=False, encoding="utf-8")
        for name, figure in _figures(comparison, **results).items():
            _save(figure, staging / f"{name}.png")
        images = {path.stem: _data_uri(path) for path in staging.glob("*.png")}
        (staging / "report.html").write_text(_page(comparison, images=images, **results), encoding="utf-8")


def _figures(comparison: Comparison, *, summary: pd.DataFrame, ranking: pd.DataFrame) -> dict[str, Figure]:
    metric, indicator = main_metric(comparison), chosen_indicator(comparison)
    curves, scores = curve_table(comparison), seed_scores(comparison)
    figures: dict[str, Figure] = {}
    if indicator is not None and ranking[indicator].notna().any():
        figures["ranking"] = plots.ranking_figure(ranking, indicator)
    if (ranking["weight"] > 0).any():
        figures["weights"] = plots.weights_figure(ranking)
    if scores["score"].notna().any():
        figures["scores"] = plots.scores_figure(summary, scores, metric=metric)
    if curves["dev_score"].notna().any():
        figures["curves"] = plots.curves_figure(curves, metric=metric)
    return figures


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # A name in a script that the font lacks becomes boxes in the plot; the tables show the name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _page(comparison: Comparison, *, images: Mapping[str, str], summary: pd.DataFrame, ranking: pd.DataFrame) -> str:
    environment = Environment(
        loader=PackageLoader("headstart", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = partial(number_text, digits=3)
    summary_notes, difference_notes = Footnotes(), Footnotes()
    return environment.get_template("report.html.j2").render(
        task=comparison.task,
        metric=main_metric(comparison),
        indicator=chosen_indicator(comparison),
        verdict=verdict(comparison),
        images=images,
        summary=_rows(summary_cells(summary, summary_notes)),
        summary_notes=summary_notes.lines(),
        differences=_rows(_difference_cells(differences(comparison), difference_notes)),
        difference_notes=difference_notes.lines(),
        ranking=_rows(_ranking_cells(ranking, comparison.indicators)),
        ranking_incomplete=bool(ranking[["weight", *comparison.indicators]].isna().any(axis=None)),
        modules=len(ranking),
        shown=min(len(ranking), _TOP),
        effective=effective_modules(comparison).to_dict("records"),
        subject=comparison.subject,
        starts=_rows(_start_cells(starts_table(comparison))),
        missing=_rows(missing_table(comparison)),
        refused=_rows(comparison.refused[list(FRAMES["refused"])]),
        settings=_rows(_exact(settings_table(comparison))),
        notes=comparison.notes,
    )


def _rows(frame: pd.DataFrame) -> dict[str, Any]:
    """The frame as a heading and rows of texts."""
    return {"head": list(frame.columns), "body": [[cell_text(value) for value in row] for row in frame.to_numpy()]}


def _exact(settings: pd.DataFrame) -> pd.DataFrame:
    """Settings with all their digits: readers type them again rather than compare them."""
    return settings.assign(value=[value if cell_text(value) == DASH else str(value) for value in settings["value"]])


def _start_cells(starts: pd.DataFrame) -> pd.DataFrame:
    titles = {
        "method": "Method", "rank": "Rank", "parameters": "Tuned numbers", "modules": "Effective modules",
        "space": "Space", "error": "ΔW error", "same_as": "Same start as",
    }  # fmt: skip
    return starts.replace({"space": "", "same_as": ""}, DASH).rename(columns=titles)


def _ranking_cells(ranking: pd.DataFrame, indicators: tuple[str, ...]) -> pd.DataFrame:
    shown = ranking[["module", "task", "family", "license", *indicators, "weight"]].head(_TOP)
    return shown.replace({"task": "", "family": "", "license": ""}, DASH)


def _difference_cells(table: pd.DataFrame, notes: Footnotes) -> pd.DataFrame:
    decimals = common_decimals(table[["low", "high"]].to_numpy().ravel())
    rows = []
    for row in table.to_dict("records"):
        low, high = (fixed_text(row[end], decimals) for end in ("low", "high"))
        interval = DASH if low == DASH else f"{low} to {high}"
        cells = {"Ensemble against": row["other"], "Stage": row["stage"], "Outcome": row["outcome"]}
        cells |= {
            "Difference": fixed_text(row["difference"], decimals),
            "95 % interval": interval + notes.mark(row["reason"]),
        }
        rows.append(cells | {"Seeds": str(row["seeds"])})
    return pd.DataFrame(rows, columns=["Ensemble against", "Stage", "Outcome", "Difference", "95 % interval", "Seeds"])
