"""The drawings that explain a ranking, as positions in percent: parts, agreement, a map of tasks, single donors."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from headstart.fitting.record import FitRecord
from headstart.reports.axes import Axis
from headstart.reports.cells import short_family
from headstart.showing import cut

__all__ = ["agreement_values", "alone_values", "explanations", "place_numbers"]

_SUBLAYERS: Mapping[str, str] = {
    "attention": "Attention", "cross_attention": "Cross-attention", "feed_forward": "Feed-forward", "": "Elsewhere",
}  # fmt: skip
MAP = 3.4
"""Pixels to a percent of the narrowest map, that of a phone."""

TALL = 6.0
"""Half the height of a number on a map, in pixels."""

LABELLED = 40
"""How many points of a map have a number; on larger maps, those with the largest weights."""


def explanations(record: FitRecord) -> dict[str, Any]:
    """What the page draws of the explanations; each is empty where nothing is known."""
    frames = record.frames
    return {
        "importance": _importance(frames["importance"]),
        "agreement": agreement_values(frames["agreement"]),
        "map": _map(frames["map"]),
        "donors": alone_values(frames["donors"]),
    }


def _importance(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A strip of blocks for every module, by stack and sub-layer: the share of the squared gradient of each."""
    known = table.dropna(subset=["block"])
    if known.empty:
        return []
    squared = known.assign(squared=known["value"] ** 2)
    squared["share"] = squared["squared"] / squared.groupby("module")["squared"].transform("sum")
    most = float(squared["share"].max()) or 1.0
    found = []
    for (stack, sublayer), own in squared.groupby(["stack", "sublayer"], sort=False):
        blocks = int(own["block"].max()) + 1
        strips = [
            {
                "module": str(module),
                "cells": [
                    {"at": round(100 * int(row["block"]) / blocks, 3), "strength": round(row["share"] / most, 3)}
                    for row in rows.to_dict("records")
                ],
                "total": f"{rows['share'].sum():.0%}",
            }
            for module, rows in own.groupby("module", sort=False)
        ]
        title = " ".join(filter(None, [str(stack).capitalize(), _SUBLAYERS[str(sublayer)].lower()])).capitalize()
        found.append({"title": title, "strips": strips, "blocks": blocks, "width": round(100 / blocks, 3)})
    return found


def agreement_values(table: pd.DataFrame) -> dict[str, Any]:
    """The matrix, with modules numbered so that it is as narrow as a phone."""
    names = list(dict.fromkeys(map(str, table["module"])))
    share = {(str(row["module"]), str(row["other"])): float(row["share"]) for row in table.to_dict("records")}
    rows = [
        {"name": name, "number": number,
         "cells": [{"text": f"{own:.2f}", "share": round(100 * own, 1)} for own in (share[name, o] for o in names)]}
        for number, name in enumerate(names, start=1)
    ]  # fmt: skip
    return {"rows": rows, "numbers": range(1, len(names) + 1)}


def _map(table: pd.DataFrame) -> dict[str, Any]:
    """Points in a square, both axes of one scale; the heaviest modules, whatever their sign, are numbered.

    `elsewhere`: the modules that have no place on it.
    """
    elsewhere = [str(name) for name in table.loc[table["x"].isna(), "module"]]
    table = table.dropna(subset=["x", "y"])
    if table.empty:
        return {"points": [], "more": 0, "elsewhere": []}
    reach = float(table[["x", "y"]].abs().to_numpy().max()) or 1.0
    axis = Axis(-1.1 * reach, 1.1 * reach, ())
    table = table.assign(weight=table["weight"].fillna(0.0).abs()).sort_values("weight", ascending=False, kind="stable")
    most = float(table["weight"].max()) or 1.0
    points = [
        {
            "x": axis.at(row["x"]), "y": 100 - axis.at(row["y"]), "r": round(4 + 7 * (row["weight"] / most) ** 0.5, 2),
            "number": number if number <= LABELLED else "", "module": str(row["module"]),
            "family": short_family(str(row["family"] or "")), "weighs": row["weight"] > 0.005,
        }
        for number, row in enumerate(table.to_dict("records"), start=1)
    ]  # fmt: skip
    place_numbers(points)
    return {"points": points, "more": max(0, len(points) - LABELLED), "elsewhere": elsewhere}


def place_numbers(points: list[dict[str, Any]]) -> None:
    """Give every number a place beside its point (`dx`, `dy` in pixels, `anchor`) that is still free, if there is one.

    Sizes are those on the narrowest map; on a wider one, everything is further apart.
    """
    taken = [(point["x"], point["y"], point["r"] / MAP, point["r"] / MAP) for point in points]
    for place, point in enumerate(points):
        if not point["number"]:
            continue
        wide, away = 4.0 * len(str(point["number"])) + 1, point["r"] + 3
        sides = [(1, 0, "start"), (-1, 0, "end"), (0, -1, "middle"), (0, 1, "middle")]
        others = [box for number, box in enumerate(taken) if number != place]
        found = []
        for right, down, anchor in sides:
            x = point["x"] + right * (away + wide) / MAP
            y = point["y"] + down * (away + TALL) / MAP
            box = (x, y, wide / MAP, TALL / MAP)
            inside = box[2] <= x <= 100 - box[2] and box[3] <= y <= 100 - box[3]
            clashes = sum(_overlap(box, other) for other in others) + (not inside)
            found.append((clashes, {"dx": right * away, "dy": down * (away + TALL) + 5, "anchor": anchor}, box))
        _, where, box = min(found, key=lambda each: each[0])
        point |= where
        taken.append(box)


Box = tuple[float, float, float, float]
"""Middle and half of the size, in percent of the map."""


def _overlap(one: Box, other: Box) -> bool:
    return abs(one[0] - other[0]) < one[2] + other[2] and abs(one[1] - other[1]) < one[3] + other[3]


def alone_values(table: pd.DataFrame) -> list[dict[str, Any]]:
    """How much each of the best modules has right, and what it alone has."""
    return [
        {
            "module": str(row["module"]), "right": f"{row['right']} of {row['rows']}", "alone": int(row["alone"]),
            "share": round(100 * row["right"] / max(int(row["rows"]), 1), 1),
            "input": cut(str(row["input"]), 200), "target": str(row["target"]),
        }
        for row in table.to_dict("records")
    ]  # fmt: skip
