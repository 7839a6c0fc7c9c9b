"""Write docs/support.md from a run of the conformance suite: `python docs/write_support.py`. A test checks it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from headstart.kinds import KINDS
from headstart.testing import BACKBONES, CHECKS, MORE_BACKBONES, Outcome, check_kind
from headstart.testing.conformance import short

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).with_name("support.md")
NAMES = {
    "llama": "Llama", "gpt2": "GPT-2", "t5": "T5", "bert": "BERT", "roberta": "RoBERTa", "mt5": "mT5",
    "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma 2", "gemma3": "Gemma 3", "phi3": "Phi-3",
    "gpt_neox": "GPT-NeoX", "opt": "OPT", "bart": "BART", "electra": "ELECTRA", "deberta-v2": "DeBERTa-v2",
    "modernbert": "ModernBERT",
}  # fmt: skip
FORMATS = {
    "save and load": "Headstart's own", "PEFT folder": "PEFT", "AdapterHub folder": "AdapterHub",
    "OpenDelta folder": "OpenDelta",
}  # fmt: skip
"""The checks that say what is read, and the heading of each one's column."""

INTRODUCTION = """\
# What is supported

Which kinds of modules work on which backbones, and which folders hold them. This page is written by the conformance
suite (`python docs/write_support.py`), which runs every check below on tiny random backbones of each family; it
claims nothing that was not run.

![Kinds, families of backbones, and the folders that are read](images/support.svg)

* **exact**: the same function, within float32's rounding (1e-5 of the largest logit); bit for bit the same if
  Headstart wrote the folder.
* **refused**: an error that says what is wrong and what to do; never another result instead. The numbers refer to the
  reasons below.
* **—**: not applicable, because the other library does not have this kind.

*Headstart's own* is what `tune`, `ensemble` and `save_module` write, with a card. For every kind that PEFT has, it is
a PEFT folder, for bottleneck adapters AdapterHub's; BitFit has its own layout in PEFT's style. *PEFT*: PEFT loads
what Headstart writes, Headstart loads what PEFT writes, and all compute the same. *AdapterHub*: Headstart reads the
folder as the library `adapters` 1.3 lays it out; *OpenDelta*: as OpenDelta 0.3 does. Those two libraries take no part
in this run; tests hold numbers that they computed, and `make slow` runs `adapters` itself in a separate environment.

BERT, RoBERTa, ELECTRA, DeBERTa-v2 and ModernBERT answer through task heads, which are saved and loaded with the
modules. XLM-RoBERTa is built like RoBERTa. On DeBERTa-v2, modules are computed one by one, because its projections
also read embeddings of relative positions, which all rows of a pass share.

For a family that is not in the table, LoRA, (IA)³ and BitFit work on the layers that are named, and prompts and
prefixes work if the model caches plain keys and values; adapters, default targets and indicators of a part need the
family's [architecture](api/architectures.md) and are refused by name without it.
"""

OWN_KIND = """\
## Your own kind

The suite is public. A kind that a package registers in the entry-point group `headstart.kinds` is checked by its name,
in a test of yours or on the command line:

```python
from headstart.testing import check_kind

failed = [outcome for outcome in check_kind("my-kind") if outcome.result == "failed"]
assert not failed, failed
```

`check_kind("my-kind", reference=function)` also compares it with your own slow and plain computation in float64.
Folders with their own `peft_type` are read through a `headstart.formats.FolderReader` in the entry-point group
`headstart.folders`.

```sh
python -m headstart.testing.conformance my-kind          # a table; --json for one line per outcome
```
"""


def support(outcomes: Sequence[Outcome]) -> str:
    """The table kinds × backbones × formats, and the reasons of its refusals below it."""
    reasons: dict[str, int] = {}
    lines = [f"| kind | backbone | {' | '.join(FORMATS.values())} |", f"|---|---|{'---|' * len(FORMATS)}"]
    for kind, backbone in dict.fromkeys((outcome.kind, outcome.backbone) for outcome in outcomes):
        found = {o.check: o for o in outcomes if (o.kind, o.backbone) == (kind, backbone)}
        cells = [cell(found, check, reasons) for check in FORMATS]
        lines.append(f"| {kind} | {NAMES.get(backbone, backbone)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for reason, number in reasons.items())])


def cell(found: dict[str, Outcome], check: str, reasons: dict[str, int]) -> str:
    """What one check found, in a word; `reasons` numbers those of refusals and failures."""
    outcome = found.get(check, found["fresh"])
    back = found.get("PEFT saves it") if check == "PEFT folder" else None
    if outcome.result == "passed" and back is not None and back.result != "passed":
        outcome = back
    if outcome.result in ("passed", "skipped"):
        return {"passed": "exact", "skipped": "—"}[outcome.result]
    reason = reason_of(outcome)
    return f"{outcome.result} ({reasons.setdefault(reason, len(reasons) + 1)})"


def reason_of(outcome: Outcome) -> str:
    """Why something is refused, in words that are the same for every family."""
    reason = re.sub(r"^(adapterhub|opendelta): ", "", short(outcome))
    reason = re.sub(r"^(field '\w+') is '\w[\w-]*'$", r"\1 names a family that is not read in this layout", reason)
    return re.sub(r"^tiny-[\w-]+", "the backbone", reason)


def checks(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """A row for every check: what it looks at, and for how many kinds on how many backbones it held."""
    found = list(outcomes)
    yield "| check | holds | what it looks at |\n|---|---:|---|"
    for name, function in CHECKS.items():
        results = [outcome.result for outcome in found if outcome.check == name and outcome.result != "skipped"]
        held = sum(result in ("passed", "refused") for result in results)
        meaning = " ".join((function.__doc__ or "").split())
        yield f"| {name} | {held} of {len(results)} | {meaning} |"


def page() -> str:
    """The page as it should be."""
    outcomes = [outcome for kind in KINDS for outcome in check_kind(kind, backbones=(*BACKBONES, *MORE_BACKBONES))]
    counted = (
        "How often each check held, of all kinds and backbones that it applies to. Cases are left out if the kind\n"
        "refuses the backbone, the other library does not have the kind, or the check has nothing to look at.\n"
    )
    parts = [INTRODUCTION, support(outcomes), "\n## The checks\n", counted, *checks(outcomes), "", OWN_KIND]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
