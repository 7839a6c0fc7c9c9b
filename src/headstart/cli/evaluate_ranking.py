"""`headstart evaluate-ranking`. It reads arrays and a matrix, so it needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.options import AsJson
from headstart.cli.output import console, print_json, print_line

if TYPE_CHECKING:
    import pandas as pd

    from headstart.ranking.evaluation import RankingEvaluation

__all__ = ["evaluate_ranking"]

SHOWN = {"rho": "rho", "ndcg": "ndcg", "regret1": "regret@1 share", "regret3": "regret@3 share", "spearman": "spearman"}
"""The measures by the names that are printed."""
HUNDREDTHS = ("ndcg", "regret1", "regret3")


def evaluate_ranking(
    folder: Annotated[
        Path, typer.Argument(help="Folder with matrices.json (measured transfer) and prompt_transfer_NAME.npz.")
    ],
    backbone: Annotated[str, typer.Option("--backbone", "-b", help="NAME of the backbone in that folder.")],
    within_families: Annotated[
        bool, typer.Option("--within-families", help="Rank only sources of the target's family (in matrices.json).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure rules that rank soft prompts by their parameters, against the measured transfer in FOLDER.

    rho: mean rank of the truly best source, 1 at best. ndcg: of the gains over a random prompt, 100 at best. regret1:
    what the first source lacks to the best one, in percent of it; regret3: what the best of the first three lacks.
    """
    from headstart.embeddings.prompts import PROMPT_DEFAULT, PROMPT_RULES
    from headstart.ranking.measured import WITH_TRANSFER, MeasuredPrompts, evaluate_prompt_rules

    measured = MeasuredPrompts.read(folder, backbone)
    found = evaluate_prompt_rules(measured, within_families=within_families)
    targets = set(found.by_target["target"])
    facts = {name: _facts(found, name) for name in found.rankers}
    baselines = [name for name in facts if name not in (*PROMPT_RULES, *WITH_TRANSFER)]
    if as_json:
        print_json(
            {
                "backbone": backbone, "within_families": within_families,
                "targets": len(targets), "sources": len(measured.names),
                "rules": {name: facts[name] for name in PROMPT_RULES},
                "default": {"rule": PROMPT_DEFAULT, **facts[PROMPT_DEFAULT]},
                "with_transfer": {name: facts[name] for name in WITH_TRANSFER},
                "baselines": {name: facts[name] for name in baselines},
                "intervals": _intervals(found), "nothing_to_gain": found.idle, "notes": measured.notes,
            }
        )  # fmt: skip
        return
    from headstart.reports.console import print_table

    within = ", sources of the target's family" if within_families else ""
    title = f"{backbone}: {len(measured.names)} prompts, {len(targets)} targets{within}, 95 % intervals over targets"
    print_table(_table(found), console(), title=title)
    print_line(f"Default: {PROMPT_DEFAULT}. {', '.join(WITH_TRANSFER)} also read the transfer to the other targets.")
    if found.idle:
        print_line(f"No source gains anything on {', '.join(found.idle)}; any order of them counts as ndcg 100.")
    out = [str(name) for name in measured.transfer.index if name not in targets]
    if out:
        print_line(f"Left out, because there is no other source of their family: {', '.join(out)}.")
    for note in measured.notes:
        print_line(note, error=True)


def _facts(found: "RankingEvaluation", ranker: str) -> dict[str, float]:
    return {name: _scaled(name, float(found.mean(measure)[ranker])) for name, measure in SHOWN.items()}


def _scaled(name: str, value: float) -> float:
    return round(100 * value if name in HUNDREDTHS else value, 2)


def _intervals(found: "RankingEvaluation") -> dict[str, dict[str, list[float]]]:
    """The bounds of every measure, by ranker."""
    bounds = {(row["ranker"], row["measure"]): row for row in found.table().to_dict("records")}
    return {
        ranker: {
            name: [_scaled(name, bounds[ranker, measure][side]) for side in ("low", "high")]
            for name, measure in SHOWN.items()
        }
        for ranker in found.rankers
    }


def _table(found: "RankingEvaluation") -> "pd.DataFrame":
    """A line per ranker, best NDCG first, with its interval."""
    import pandas as pd

    bounds = _intervals(found)
    rows: list[dict[str, Any]] = []
    for ranker in found.rankers:
        facts = _facts(found, ranker)
        low, high = bounds[ranker]["ndcg"]
        rows.append({"rule": ranker, **facts, "ndcg from": low, "to": high})
    return pd.DataFrame(rows).sort_values("ndcg", ascending=False, kind="stable")
