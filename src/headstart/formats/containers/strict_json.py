"""JSON from untrusted files: a repeated key or absurd nesting is an error, never silently resolved."""

import json

__all__ = ["strict_json"]


def strict_json(text: bytes) -> object:
    """Parse UTF-8 JSON. Raises `ValueError` on anything malformed, and on an object that repeats a key.

    >>> strict_json(b'{"r": 8}')
    {'r': 8}
    """
    try:
        value: object = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key '{repeated}' appears twice")
    return result
