"""Figures of a report; each draws what its table already holds and computes nothing.

The colours are those of Okabe and Ito, "Color Universal Design" (2008): they stay apart for colour-blind readers.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from headstart.comparing.comparison import DEFAULT_METHODS, STAGES

__all__ = ["TOP", "curves_figure", "ranking_figure", "scores_figure", "weights_figure"]

TOP = 25
"""The largest number of modules in a bar plot; the tables hold the rest."""

_METHOD_COLOURS: Mapping[str, str] = dict(
    zip(DEFAULT_METHODS, ("#6b6b6b", "#cc79a7", "#56b4e9", "#e69f00", "#0072b2"), strict=True)
)
_METHOD_MARKERS: Mapping[str, str] = dict(zip(DEFAULT_METHODS, "sXD^o", strict=True))
_OTHER_METHODS = ("#009e73", "#d55e00", "#f0e442", "#000000")
_FAMILY_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
_REST_COLOUR = "#b5b5b5"
_INK, _RULE = "#222222", "#d9d9d9"
_NAME_LENGTH = 34
_LEGEND_LETTERS = 150
_DOTS_ASIDE = 0.16


def ranking_figure(ranking: pd.DataFrame, indicator: str) -> Figure:
    """The best modules by `indicator`, coloured by family.

    Bars start at 0 if no value is below 0. Otherwise (a negative loss, a log-likelihood) the length of a bar would
    mislead, so dots are drawn instead.
    """
    shown = ranking.dropna(subset=[indicator]).head(TOP)
    colours = _family_colours(ranking["family"])
    return _modules_figure(shown, indicator, colours=colours, label=f"{indicator} (higher is better)")


def weights_figure(ranking: pd.DataFrame) -> Figure:
    """The weights of the ensemble, largest first, coloured as in `ranking_figure`; weights of 0 are left out."""
    shown = ranking[ranking["weight"] > 0].sort_values("weight", ascending=False, kind="stable").head(TOP)
    return _modules_figure(shown, "weight", colours=_family_colours(ranking["family"]), label="weight, mean over seeds")


def scores_figure(summary: pd.DataFrame, seed_scores: pd.DataFrame, *, metric: str) -> Figure:
    """Test score of each method, before and after tuning: mean and 95 % interval, with a dot for each seed."""
    methods = summary["method"].tolist()
    figure = Figure(figsize=(max(8.0, 1.5 * len(methods)), 3.9), layout="constrained")
    panels = figure.subplots(1, len(STAGES), sharey=True)
    for axes, stage in zip(panels, STAGES, strict=True):
        _plain(axes, grid="y")
        axes.set_title(stage.capitalize(), loc="left", fontsize=11, color=_INK)
        names = ["\n".join(_short_name(method).replace("_", " ").split()) for method in methods]
        axes.set_xticks(range(len(methods)), names)
        _no_math(axes.get_xticklabels())
        axes.set_xlim(-0.5, len(methods) - 0.5)
        for position, row in enumerate(summary.to_dict("records")):
            method, name = row["method"], stage.replace("-", "_")
            dots = seed_scores[(seed_scores["method"] == method) & (seed_scores["stage"] == stage)]["score"]
            colour = _method_colour(method, methods)
            axes.plot([position + _DOTS_ASIDE] * len(dots), dots, "o", color=colour, alpha=0.45, markersize=4.5, mew=0)
            marker = _METHOD_MARKERS.get(method, "v")
            _mean_with_interval(axes, position, row[name], half=row[f"{name}_interval"], colour=colour, marker=marker)
    panels[0].set_ylabel(f"test {metric}", parse_math=False)
    return figure


def curves_figure(curves: pd.DataFrame, *, metric: str) -> Figure:
    """Dev score, and dev loss if there is one, against the tuning step: means with bands of the 95 % interval.

    A line is dotted after a seed has stopped, because it is then a mean over fewer seeds.
    """
    panels = [("dev_score", f"dev {metric} (higher is better)")]
    if curves["dev_loss"].notna().any():
        panels.append(("dev_loss", "dev loss (lower is better)"))
    figure = Figure(figsize=(8.0, 3.9), layout="constrained")
    methods = list(dict.fromkeys(curves["method"]))
    for axes, (name, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _plain(axes, grid="y")
        axes.set_xlabel("tuning step")
        axes.set_ylabel(label, parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10], integer=True))
        for method in methods:
            own = curves[curves["method"] == method].dropna(subset=[name])
            _curve(axes, own, name, colour=_method_colour(method, methods), marker=_METHOD_MARKERS.get(method, "v"))
    styles = [(_method_colour(method, methods), _METHOD_MARKERS.get(method, "v")) for method in methods]
    _legend(figure, [Line2D([], [], color=colour, marker=marker) for colour, marker in styles], methods)
    return figure


def _modules_figure(shown: pd.DataFrame, column: str, *, colours: Mapping[str, str], label: str) -> Figure:
    figure = Figure(figsize=(8.0, 1.25 + 0.26 * max(len(shown), 1)), layout="constrained")
    axes = figure.subplots()
    _plain(axes, grid="x")
    positions, values = np.arange(len(shown)), shown[column].to_numpy(dtype=np.float64)
    families = shown["family"].fillna("").astype(str).tolist()
    inks = [colours.get(family, _REST_COLOUR) for family in families]
    if (values >= 0).all():
        axes.barh(positions, values, color=inks, height=0.68)
    else:
        axes.hlines(positions, values.min(), values, color=_RULE, linewidth=1)
        axes.scatter(values, positions, color=inks, s=42, zorder=3)
    axes.set_yticks(positions, [_short_name(name) for name in shown["module"]])
    axes.set_ylim(max(len(shown), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label, parse_math=False)
    _no_math(axes.get_yticklabels())
    entries = {family: colour for family, colour in colours.items() if family in families}
    if any(family not in colours for family in families):
        entries["other or no family"] = _REST_COLOUR
    _legend(figure, [Patch(facecolor=colour) for colour in entries.values()], list(entries))
    return figure


def _family_colours(families: "pd.Series[str]") -> dict[str, str]:
    """A colour for each of the most frequent families; the others, and modules without one, share the grey."""
    named = families[families.fillna("") != ""].astype(str)
    return dict(zip(sorted(named.value_counts().head(len(_FAMILY_COLOURS)).index), _FAMILY_COLOURS, strict=False))


def _mean_with_interval(axes: Axes, position: int, mean: float, *, half: float, colour: str, marker: str) -> None:
    if np.isnan(mean):
        axes.annotate(
            "missing", (position, 0.03), xycoords=("data", "axes fraction"), ha="center", color=colour, fontsize=9
        )
        return
    error = None if np.isnan(half) else half
    axes.errorbar(position, mean, yerr=error, fmt=marker, color=colour, markersize=8, capsize=4, elinewidth=1.6)


def _curve(axes: Axes, own: pd.DataFrame, name: str, *, colour: str, marker: str) -> None:
    whole = own[own["complete"]]
    axes.plot(own["step"], own[name], ":", color=colour, linewidth=1.6)
    axes.plot(whole["step"], whole[name], color=colour, marker=marker, linewidth=1.9, markersize=4.5)
    band = own.dropna(subset=[f"{name}_interval"])
    half = band[f"{name}_interval"]
    axes.fill_between(band["step"], band[name] - half, band[name] + half, color=colour, alpha=0.14, linewidth=0)


def _plain(axes: Axes, *, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#8a8a8a")
    axes.grid(axis="x" if grid == "x" else "y", color=_RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)


def _legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    if not names:
        return
    # matplotlib drops labels that begin with "_" as its own; the space prevents that.
    labels = [f" {_short_name(name)}" for name in names]
    columns = max(1, min(len(labels), _LEGEND_LETTERS // (max(map(len, labels)) + 5)))
    legend = figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    _no_math(legend.get_texts())


def _no_math(texts: Iterable[object]) -> None:
    """Show any `$` in a name as it is."""
    for text in texts:
        text.set_parse_math(False)  # type: ignore[attr-defined]


def _method_colour(method: str, methods: Sequence[str]) -> str:
    if method in _METHOD_COLOURS:
        return _METHOD_COLOURS[method]
    others = [name for name in methods if name not in _METHOD_COLOURS]
    return _OTHER_METHODS[others.index(method) % len(_OTHER_METHODS)]


def _short_name(name: str) -> str:
    """`name` on one line; the middle of a long name is left out, because both ends tell modules apart."""
    name = " ".join(str(name).split())
    if len(name) <= _NAME_LENGTH:
        return name
    half = _NAME_LENGTH // 2 - 1
    return f"{name[:half]}…{name[-half:]}"
