"""`==` and `in` never raise: what holds tensors or tables is compared by identity."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "headstart"
AMBIGUOUS = re.compile(r"\b(Tensor|DataFrame|Series|ndarray|NDArray)\b")
"""Types whose `==` gives no yes or no."""


def offences(source: str) -> list[str]:
    """Dataclasses of `source` that compare such a field by value."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        by_value = any(text.startswith("dataclass") and "eq=False" not in text for text in decorators)
        own_eq = any(isinstance(item, ast.FunctionDef) and item.name == "__eq__" for item in node.body)
        fields = [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)]
        fields = [field for field in fields if "ClassVar" not in field and "compare=False" not in field]
        if by_value and not own_eq and any(AMBIGUOUS.search(field) for field in fields):
            found.append(node.name)
    return found


def test_what_holds_tensors_or_tables_is_compared_by_identity() -> None:
    found = {
        str(path.relative_to(SOURCE)): names
        for path in SOURCE.rglob("*.py")
        if (names := offences(path.read_text(encoding="utf-8")))
    }
    assert found == {}, "write @dataclass(frozen=True, eq=False)"


def test_an_offence_is_found() -> None:
    field = "class A:\n    x: Mapping[str, Tensor]"
    assert offences(f"@dataclass(frozen=True)\n{field}") == ["A"]
    assert offences(f"@dataclass\n{field}") == ["A"]
    assert offences(f"@dataclass(frozen=True, eq=False)\n{field}") == []
    assert offences("@dataclass\nclass A:\n    x: Layout") == []
