"""Tables and settings as strict JSON: NaN is null, ±infinity the text "Infinity" or "-Infinity"."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from headstart.errors import CardError

__all__ = ["frame_from_json", "frame_to_json", "number_from_json", "plain"]

_NOT_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def plain(value: Any, field: str) -> Any:
    """`value` as strict JSON data. Raises `CardError`, which names `field`, for what JSON cannot hold."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"), field)
    if isinstance(value, np.generic):
        return plain(value.item(), field)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{field}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        return _number_to_json(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    raise CardError(f"{field} is a {type(value).__name__}, which JSON cannot hold; give it as a number or a text")


def _number_to_json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def number_from_json(value: Any) -> float:
    """The number that `plain` wrote."""
    return math.nan if value is None else float(_NOT_FINITE.get(value, value))


def frame_to_json(frame: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """A table as a list of columns `{"name", "type", "values"}`; raises `CardError` for what JSON cannot hold."""
    return [_column_to_json(frame[column], f"{name}.{column}") for column in frame.columns]


def _column_to_json(column: "pd.Series[Any]", field: str) -> dict[str, Any]:
    missing = column.isna()
    inferred = pd.api.types.infer_dtype(column, skipna=True)
    values: list[Any] = [None if gone else value for value, gone in zip(column.tolist(), missing, strict=True)]
    if inferred in {"floating", "mixed-integer-float", "decimal"} or (inferred == "integer" and missing.any()):
        kind, values = "number", [None if value is None else _number_to_json(float(value)) for value in values]
    elif inferred == "integer":
        kind, values = "integer", [int(value) for value in values]
    elif inferred == "boolean":
        kind = "boolean"
    elif inferred in {"string", "empty"}:
        kind = "number" if pd.api.types.is_float_dtype(column) else "text"
    else:
        raise CardError(f"{field} holds {inferred} values, which JSON cannot hold; give them as numbers or texts")
    return {"name": str(column.name), "type": kind, "values": values}


def frame_from_json(columns: list[dict[str, Any]]) -> pd.DataFrame:
    """The table that `frame_to_json` wrote. Raises `ValueError` if it is malformed."""
    frame = pd.DataFrame({column["name"]: _column_from_json(column) for column in columns})
    if len(frame.columns) != len(columns):
        raise ValueError("two columns of one name")
    return frame


def _column_from_json(column: dict[str, Any]) -> "pd.Series[Any]":
    values, kind = column["values"], column["type"]
    if kind == "number":
        return pd.Series([number_from_json(value) for value in values], dtype="float64")
    if kind == "integer":
        return pd.Series(values, dtype="int64")
    if kind in {"text", "boolean"}:
        return pd.Series(values, dtype="object").infer_objects()
    raise ValueError(f"column '{column['name']}' has the unknown type '{kind}'")
