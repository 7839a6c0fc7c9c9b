"""What was found, as a folder: one self-contained page, tables as CSV, the record as JSON, and tuned modules."""

import re
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from headstart.atomic import staged_folder
from headstart.comparing.comparison import Comparison
from headstart.comparing.decision import decide
from headstart.comparing.effects import effects, mean_scores
from headstart.fitting.record import FitRecord, Fitted
from headstart.reports.cells import defused
from headstart.reports.fit_page import fit_values
from headstart.reports.page import page_values, spoken
from headstart.reports.tables import ranking_table, summary

__all__ = ["fit_page", "write_report"]

UNSEEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
"""Control characters, which HTML does not allow, and those that would reverse the text after them."""
BREAKS = re.compile(r"([_./:]+)(?=\w)")
"""Marks within a name after which a line may end; after a hyphen it may anyway."""


def write_report(found: Comparison | Fitted, folder: str | Path) -> None:
    """Write the report of a comparison or of a fit to the new `folder`, completely or not at all.

    That of a fit is the folder of its module, as `save_module` writes it, with the page report.html beside the tensors,
    and fit.json, from which `FitRecord.from_json` restores the record.

    The folder of a comparison holds report.html, which opens anywhere, loads nothing and runs no script; the tables
    summary.csv, effects.csv, ranking.csv, scores.csv, curves.csv, answers.csv and refused.csv, where an apostrophe
    precedes any text that a spreadsheet would take for a formula; comparison.json, from which `Comparison.from_json`
    restores everything but tuned modules; and those that the comparison keeps, each a folder under modules/.

    Raises:
        OutputError: `folder` exists or cannot be written.
        CardError: the record holds what JSON cannot.

    Examples:
        >>> comparison = hs.compare(
        ...     task, hub, backbone, methods=("scratch", "average"), seeds=1, shots=2, recipe=short
        ... )
        >>> hs.write_report(comparison, "report")
        >>> Path("report/report.html").exists()
        True
    """
    if isinstance(found, Fitted):
        _write_fit(found, Path(folder))
    else:
        _write_comparison(found, Path(folder))


def _write_fit(fitted: Fitted, folder: Path) -> None:
    from headstart.kinds import save_module  # torch, which a report without modules does without

    with staged_folder(folder) as staging:
        saved = staging / folder.name  # the module's README names its folder
        save_module(fitted.module, saved)
        for path in saved.iterdir():
            path.rename(staging / path.name)
        saved.rmdir()
        (staging / "fit.json").write_text(fitted.record.to_json(), encoding="utf-8")
        (staging / "report.html").write_text(fit_page(fitted.record, folder=folder.name), encoding="utf-8")


def fit_page(record: FitRecord, *, folder: str = "MODULE") -> str:
    """The page of a fit, which loads nothing and runs no script; `folder`: what the module's folder is called."""
    return _environment().get_template("fit.html.j2").render(fit_values(record, folder=folder))


def _write_comparison(comparison: Comparison, folder: Path) -> None:
    results = {"summary": summary(comparison), "effects": effects(comparison), "ranking": ranking_table(comparison)}
    recorded = {name: getattr(comparison, name) for name in ("scores", "curves", "answers", "refused")}
    with staged_folder(folder) as staging:
        (staging / "comparison.json").write_text(comparison.to_json(), encoding="utf-8")
        for name, frame in (results | recorded).items():
            defused(frame).to_csv(staging / f"{name}.csv", index=False, encoding="utf-8")
        page = _page(comparison, effects=results["effects"], summary=results["summary"])
        (staging / "report.html").write_text(page, encoding="utf-8")
        if comparison.modules:
            from headstart.kinds import save_module  # torch, which a report without modules does without

            for name, module in comparison.modules.items():
                save_module(module, staging / "modules" / name)


def _page(comparison: Comparison, *, effects: pd.DataFrame, summary: pd.DataFrame) -> str:
    means = mean_scores(comparison)
    values = page_values(comparison, decide(comparison), effects=effects, means=means, summary=summary)
    return _environment().get_template("report.html.j2").render(values)


def _environment() -> Environment:
    """What renders the templates: texts are escaped, and what is missing is an error."""
    environment = Environment(
        loader=PackageLoader("headstart", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    environment.filters["spoken"] = spoken
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after a mark, and need not do so within a word."""
    return Markup(BREAKS.sub(r"\1<wbr>", str(escape(_seen(name)))))


def _seen(value: object) -> object:
    """A text with what a page cannot show as escapes; whatever else stands on the page as it is."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), value)
