"""The conformance suite: does a kind keep the contract? It is for Headstart's own kinds and for those of plug-ins.

`python -m headstart.testing.conformance [--json] [KIND ...]` prints kinds × backbones and exits with 1 if a check
fails, with 2 if a kind is unknown.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from headstart.errors import BackboneError, ModuleError, SettingError
from headstart.kinds import KINDS
from headstart.registry import Registry
from headstart.testing.backbones import BACKBONES, tiny_backbone
from headstart.testing.behaviour import (
    attach_leaves_no_trace,
    gradient_is_that_of_finite_differences,
    gradients_together_are_those_alone,
    merge_of_one_or_equals_is_itself,
    options_score_as_targets_do,
    stack_is_single_runs,
    threads_compute_as_one_does,
)
from headstart.testing.case import Aside, Case, Outcome, Reference, Result, Violation
from headstart.testing.folders import (
    adapterhub_folder_is_read,
    opendelta_folder_is_read,
    peft_computes_the_same,
    peft_saves_the_same,
    save_then_load_is_itself,
)
from headstart.testing.reference import float64_reference_agrees
from headstart.testing.refusals import (
    another_layer_count_is_refused,
    extra_tensor_is_refused,
    missing_tensor_is_refused,
    nan_is_refused,
    truncated_file_is_refused,
    wrong_shape_is_refused,
)

__all__ = ["CHECKS", "check_kind", "main", "short", "table"]

Check = Callable[[Case], None]
CHECKS: Registry[Check] = Registry("check")
for _name, _check in {
    "attach and detach": attach_leaves_no_trace,
    "stack": stack_is_single_runs,
    "threads": threads_compute_as_one_does,
    "options": options_score_as_targets_do,
    "float64 reference": float64_reference_agrees,
    "gradient": gradient_is_that_of_finite_differences,
    "gradients together": gradients_together_are_those_alone,
    "merge": merge_of_one_or_equals_is_itself,
    "save and load": save_then_load_is_itself,
    "PEFT folder": peft_computes_the_same,
    "PEFT saves it": peft_saves_the_same,
    "AdapterHub folder": adapterhub_folder_is_read,
    "OpenDelta folder": opendelta_folder_is_read,
    "NaN": nan_is_refused,
    "missing tensor": missing_tensor_is_refused,
    "extra tensor": extra_tensor_is_refused,
    "wrong shape": wrong_shape_is_refused,
    "layer count": another_layer_count_is_refused,
    "truncated file": truncated_file_is_refused,
}.items():
    CHECKS.add(_name, _check)

REFUSALS = (ModuleError, SettingError, BackboneError)
FIRST = "fresh"
"""The name of the step before all checks: a fresh module is drawn, and it must fit the backbone."""


def check_kind(
    kind: str,
    *,
    backbones: Sequence[str] = tuple(BACKBONES),
    checks: Collection[str] | None = None,
    shape: Mapping[str, Any] | None = None,
    reference: Reference | None = None,
) -> list[Outcome]:
    """Run every check on a kind, on tiny random backbones, without a network.

    If the kind refuses a backbone by name when a fresh module is drawn or checked, there is one outcome, "refused".
    A kind's mistakes are not raised: each becomes an outcome "failed".

    Args:
        kind: a name in `KINDS`: one of Headstart's, or a plugin's in the entry-point group "headstart.kinds".
        backbones: names in `headstart.testing.BACKBONES` or `MORE_BACKBONES`.
        checks: names in `CHECKS`; all if there are none.
        shape: the kind's settings by name (`{"rank": 4}`), as in a recipe; its defaults if there are none.
        reference: a slow and plain computation of the kind. It is called with a module, a float64 copy of the backbone
            and one example, and returns the logits at its target positions, (targets, V). Without one, Headstart's own
            kinds are compared with PEFT in float64 or with plain formulas.

    Returns:
        One outcome for every backbone and check, in the order of `CHECKS`.

    Raises:
        SettingError: an unknown kind or backbone.
    """
    KINDS[kind]  # an unknown kind is the caller's mistake
    found = []
    for name in backbones:
        make = partial(Case, kind, tiny_backbone(name), shape=shape or {}, reference=reference)
        found += _outcomes(name, make, [check for check in CHECKS if checks is None or check in checks])
    return found


def _outcomes(name: str, make: Callable[[Path], Case], checks: Sequence[str]) -> list[Outcome]:
    found: list[Outcome] = []
    for check in (FIRST, *checks):
        with tempfile.TemporaryDirectory() as folder:
            case = make(Path(folder))
            result, detail = _run(_begin if check == FIRST else CHECKS[check], case)
        found.append(Outcome(case.kind, name, check, result, detail))
        if check == FIRST and result != "passed":
            break
    return found


def _begin(case: Case) -> None:
    try:
        case.fresh().check(case.backbone)
    except REFUSALS as error:
        raise Aside("refused", str(error)) from error
    case.module().check(case.backbone)


def _run(check: Check, case: Case) -> tuple[Result, str]:
    """What a check found, and why."""
    try:
        check(case)
    except Aside as aside:
        return aside.result, _plain(str(aside), case.folder)
    except Violation as violation:
        return "failed", _plain(str(violation), case.folder)
    except Exception as error:
        return "failed", _plain(f"{type(error).__name__}: {error}", case.folder)
    return "passed", ""


def _plain(text: str, folder: Path) -> str:
    """A message on one line, without the path of the case's temporary folder."""
    return " ".join(text.replace(f"{folder}/", "").split())


def short(outcome: Outcome) -> str:
    """The first clause of an outcome's reason: what is wrong, without the remedy."""
    return outcome.detail.partition("; ")[0]


def table(outcomes: Iterable[Outcome]) -> str:
    """Kinds × backbones as text: how many checks passed, and the reason for every refusal and failure."""
    cells: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault((outcome.kind, outcome.backbone), []).append(outcome)
    lines = [f"{'kind':<12}{'backbone':<12}{'passed':>8}{'skipped':>9}{'refused':>9}{'failed':>8}"]
    for (kind, backbone), found in cells.items():
        counts = [sum(o.result == result for o in found) for result in ("passed", "skipped", "refused", "failed")]
        lines.append("{:<12}{:<12}{:>8}{:>9}{:>9}{:>8}".format(kind, backbone, *counts))
        lines += [f"    {o.check} {o.result}: {o.detail}" for o in found if o.result in ("refused", "failed")]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m headstart.testing.conformance", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="default: all that are registered")
    parser.add_argument("--json", action="store_true", help="one line of JSON for every outcome")
    chosen = parser.parse_args(arguments)
    try:
        outcomes = [outcome for kind in chosen.kinds or list(KINDS) for outcome in check_kind(kind)]
    except SettingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    lines = [json.dumps(asdict(outcome)) for outcome in outcomes] if chosen.json else [table(outcomes)]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any(outcome.result == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
