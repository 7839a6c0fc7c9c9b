"""A module's README.md, which remote hubs call its model card: written from our card; its licence can be read back."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from headstart.records import ModuleCard

__all__ = ["inert", "readme", "stated_license"]

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")
METADATA = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*$", re.DOTALL | re.MULTILINE)
LICENSE_LINE = re.compile(rf"""^(license|license_name):[ \t]*["']?({IDENTIFIER.pattern})["']?[ \t]*$""", re.MULTILINE)
ACTIVE = re.compile(r"[\\`*\[\]<>&|~$]")
"""Characters that have a meaning in Markdown within a line."""
LONGEST_METADATA = 1 << 20
"""How many characters at the beginning of a README.md are searched for its metadata."""
MODEL_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


def readme(card: ModuleCard, *, loading: Sequence[str] = ()) -> str:
    """A model card with the metadata block that hubs read, then the facts as prose and tables.

    `loading`: lines of Python that load the module (see `headstart.hub.snippet`).
    """
    lines = ["---", *_metadata(card), "---", f"# {inert(card.name)}", ""]
    lines += [f"A {card.kind} module made with Headstart.", ""]
    facts = {
        "Task": card.task,
        "Family": card.family,
        "Training rows": card.train_rows,
        f"Dev {card.metric}{', calibrated' if _calibrated(card) else ''}": None
        if card.score is None
        else f"{card.score:.4f}",
        "Rank": card.rank,
        "Parameters": f"{card.parameters:,}",
        "Backbone": card.base_model,
        "Prompt": card.text_format.words if card.text_format is not None and card.head is None else None,
        "Calibration": _calibrated(card),
        "Task head": card.head and card.head.words,
        f"ΔW error of the {'merge' if card.train_rows is None else 'start'}": None
        if card.merge_error is None
        else f"{card.merge_error:.3g}",
        "Licence": card.license,
        "Data licence": card.dataset_license,
    }
    stated = [f"| {inert(key)} | {inert(value)} |" for key, value in facts.items() if value not in (None, "")]
    lines += ["| | |", "|---|---|", *stated]
    if loading:
        lines += ["", "## Load it", "", "```python", *loading, "```"]
    if card.donors:
        lines += ["", "## Donors", "", "| module | weight | licence |", "|---|---:|---|"]
        lines += [f"| {inert(d.name)} | {d.weight:.4f} | {inert(d.license or '—')} |" for d in card.donors]
    if card.notes:
        lines += ["", *_verbatim(card.notes)]
    return "\n".join(lines) + "\n"


def stated_license(folder: Path) -> str:
    """The licence in the metadata block of the folder's README.md; empty if none is stated there."""
    try:
        with (folder / "README.md").open(encoding="utf-8-sig", errors="replace") as stream:
            text = stream.read(LONGEST_METADATA)
    except OSError:
        return ""
    block = METADATA.match(text)
    stated = dict(LICENSE_LINE.findall(block[1])) if block else {}
    found: str = stated.get("license", "")
    return str(stated.get("license_name", found)) if found == "other" else found


def _calibrated(card: ModuleCard) -> str | None:
    """What a reader has to know who lets the model write: Headstart's answers may differ from it."""
    if card.calibration is None or card.calibration.method == "none":
        return None
    return f"{card.calibration.method}, where Headstart chooses among labels; text that the model writes is without it"


def _metadata(card: ModuleCard) -> list[str]:
    """The lines of the YAML block. JSON strings are YAML strings, whatever is in them."""
    lines = [f"library_name: {'adapters' if card.kind == 'adapter' else 'peft'}"]
    # A path on somebody's machine is not a model that a hub could link to.
    if MODEL_ID.fullmatch(card.base_model):
        lines.append(f"base_model: {json.dumps(card.base_model)}")
    if IDENTIFIER.fullmatch(card.license.lower()):
        lines.append(f"license: {json.dumps(card.license.lower())}")
    elif card.license:
        # Hubs only accept identifiers; other terms, such as those of a blend, go into a separate field.
        name = re.sub(r"[^a-z0-9.]+", "-", card.license.lower()).strip("-")
        lines += ["license: other", f"license_name: {json.dumps(name)}"]
    return [*lines, f"tags: [headstart, {card.kind}]"]


def inert(value: object) -> str:
    """The value on one line, without anything that Markdown or HTML would interpret or that ends a table's column."""
    return ACTIVE.sub(r"\\\g<0>", " ".join(str(value).split()))


def _verbatim(text: str) -> list[str]:
    """A block that shows `text` as it is: a note from elsewhere must not bring links, images or HTML into the page."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}text", text, fence]
