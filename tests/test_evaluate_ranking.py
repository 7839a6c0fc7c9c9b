"""Rules that rank soft prompts, the folder they are measured on, and `headstart evaluate-ranking`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.embeddings.prompts import LEADING, PROMPT_DEFAULT, PROMPT_RULES, check_prompts
from headstart.errors import HubError, SettingError
from headstart.ranking.measured import MeasuredPrompts, evaluate_prompt_rules
from program import Run, assert_mistake

pytest_plugins = ["cli_helper"]

REAL = Path(__file__).parents[2] / "shared" / "data" / "prompt_transfer"
NAMES = ("ants", "bees", "cats", "dogs")


def write_folder(
    folder: Path,
    *,
    matrix: list[list[float]] | None = None,
    without: str = "",
    every: dict[str, Any] | None = None,
    tiny: dict[str, Any] | None = None,
) -> Path:
    """Four tasks in two pairs of like prompts, and a transfer that is high within a pair.

    `every` and `tiny` are further keys of matrices.json: for every backbone, and for the one that it has.
    """
    generator = np.random.default_rng(0)
    pairs = generator.normal(size=(2, 1, 16))
    prompts = {name: pairs[index // 2] + 0.3 * generator.normal(size=(8, 16)) for index, name in enumerate(NAMES)}
    prompts.pop(without, None)
    within = [[0.9 if row // 2 == column // 2 else 0.4 for column in range(4)] + [0.5] for row in range(4)]
    content = {"targets": NAMES, "sources": [*NAMES, "random"], "matrix": matrix or within, **(tiny or {})}
    whole = {"backbones": {"tiny": content}, **(every or {})}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrices.json").write_text(json.dumps(whole), encoding="utf-8")
    np.savez(folder / "prompt_transfer_tiny.npz", **{k: v.astype(np.float16) for k, v in prompts.items()})  # type: ignore[arg-type]
    return folder


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def test_rules_against_naive_references() -> None:
    prompts = np.random.default_rng(1).normal(size=(3, 9, 12)) + 0.4
    unit = prompts / np.sqrt((prompts**2).sum(-1, keepdims=True))
    moments = [sum(np.outer(token, token) for token in own) for own in unit]
    for t in range(3):
        values, vectors = np.linalg.eigh(moments[t])
        leading = vectors[:, np.argsort(values)[::-1][:LEADING]]
        for s in range(3):
            share = sum(((token @ leading) ** 2).sum() for token in unit[s]) / 9  # every token has length 1
            signs = cosine(np.sign(prompts[t].mean(0)), np.sign(prompts[s].mean(0)))
            expected = {
                "flat": cosine(prompts[t], prompts[s]),
                "token_mean": cosine(prompts[t].mean(0), prompts[s].mean(0)),
                "token_mean_centred": cosine(*(prompts[i].mean(0) - prompts.mean((0, 1)) for i in (t, s))),
                "unit_token_mean": cosine(unit[t].mean(0), unit[s].mean(0)),
                "sign": signs,
                "second_moment": cosine(moments[t], moments[s]),
                "span": share,
                "sign_span": signs * share,
            }
            found = {name: rule(prompts)[t, s] for name, rule in PROMPT_RULES.items()}
            assert found == pytest.approx(expected)


@pytest.mark.parametrize("rule", sorted(set(PROMPT_RULES) - {"flat"}))
def test_the_order_of_tokens_and_the_scale_of_a_prompt_do_not_count(rule: str) -> None:
    generator = np.random.default_rng(2)
    prompts = generator.normal(size=(4, 10, 12)) + 0.3
    before = PROMPT_RULES[rule](prompts)
    assert PROMPT_RULES[rule](prompts[:, generator.permutation(10)]) == pytest.approx(before)
    if rule != "token_mean_centred":  # the mean over the hub changes with the scale of one
        assert PROMPT_RULES[rule](prompts * np.array([1, 7, 0.1, 2])[:, None, None]) == pytest.approx(before)


def test_prompts_are_checked() -> None:
    with pytest.raises(SettingError, match=r"prompts of shape \(2, 3\) are not \(sources, tokens, dimensions\)"):
        check_prompts(np.zeros((2, 3)))
    with pytest.raises(SettingError, match="not finite; leave that source out"):
        check_prompts(np.full((1, 2, 3), np.nan))


def test_a_folder_is_measured(tmp_path: Path) -> None:
    found = evaluate_prompt_rules(MeasuredPrompts.read(write_folder(tmp_path), "tiny"), draws=100)
    assert found.mean("rho")[list(PROMPT_RULES)].drop("flat").eq(1.0).all()
    assert found.mean("ndcg")[PROMPT_DEFAULT] == 1.0
    assert found.mean("rho")["random"] == 2.0  # of three candidates
    # On ants, cats and dogs transfer 0.9 once and 0.4 once to the others, and bees 0.9 and twice 0.4 less.
    assert found.mean("rho")["popularity"] > 1.0


def test_a_task_without_a_prompt_is_left_out(tmp_path: Path) -> None:
    measured = MeasuredPrompts.read(write_folder(tmp_path, without="dogs"), "tiny")
    assert measured.names == NAMES[:3]
    assert measured.transfer.shape == (3, 3)
    assert measured.notes == ("dogs has no prompt, so it is left out",)
    assert np.isnan(np.diag(measured.transfer)).all()
    assert measured.own.tolist() == [0.9, 0.9, 0.9]


def test_the_command(tmp_path: Path, run: Run) -> None:
    folder = write_folder(tmp_path)
    data = run("evaluate-ranking", folder, "--backbone", "tiny", "--json").data
    assert set(data["rules"]) == set(PROMPT_RULES)
    # The two sources outside the pair are equally good: their order counts in Spearman's correlation only.
    assert data["rules"]["token_mean"] == {"rho": 1, "ndcg": 100, "regret1": 0, "regret3": 0, "spearman": 0.87}
    assert data["default"] == {"rule": PROMPT_DEFAULT, **data["rules"][PROMPT_DEFAULT]}
    assert (data["default"]["rho"], data["default"]["ndcg"], data["default"]["regret1"]) == (1, 100, 0)
    assert set(data["with_transfer"]) == {"popularity", "sign_span+popularity"}
    assert set(data["baselines"]) == {"random", "own score"}
    assert data["intervals"]["sign_span"]["ndcg"] == [100.0, 100.0]
    assert data["baselines"]["random"]["regret1"] == pytest.approx(100 * (0.9 - (0.9 + 0.4 + 0.4) / 3) / 0.9, abs=0.01)
    shown = run("evaluate-ranking", folder, "-b", "tiny").out
    assert "tiny: 4 prompts, 4 targets, 95 % intervals over targets" in shown
    assert "Default: sign_span." in shown


def test_numbers_of_rows_are_a_baseline(tmp_path: Path, run: Run) -> None:
    # Ranked by rows, dogs come first, then cats, bees and ants: the best source, the other of a pair, is third for
    # ants and bees, and first for cats and dogs. Equal numbers elsewhere, which do not count: the backbone has its own.
    folder = write_folder(
        tmp_path,
        every={"sizes": dict.fromkeys(NAMES, 7)},
        tiny={"sizes": dict(zip(NAMES, (8, 16, 32, 64), strict=True))},
    )
    found = evaluate_prompt_rules(MeasuredPrompts.read(folder, "tiny"), draws=10)
    assert found.mean("rho")["data size"] == (3 + 3 + 1 + 1) / 4
    data = run("evaluate-ranking", folder, "-b", "tiny", "--json").data
    assert set(data["baselines"]) == {"random", "own score", "data size"}
    assert data["baselines"]["data size"]["rho"] == 2
    equal = write_folder(tmp_path / "equal", every={"sizes": dict.fromkeys(NAMES, 7)})
    assert evaluate_prompt_rules(MeasuredPrompts.read(equal, "tiny"), draws=10).mean("rho")["data size"] == 2
    lacking = write_folder(tmp_path / "lacking", every={"sizes": {"ants": 3}})
    with pytest.raises(
        HubError, match=r"matrices\.json: 'sizes' has no number of rows for 'bees'; add it, or leave out"
    ):
        MeasuredPrompts.read(lacking, "tiny")


def test_sources_of_the_same_family(tmp_path: Path, run: Run) -> None:
    families = {"ants": "insects", "bees": "insects", "cats": "felines", "dogs": "canines"}
    folder = write_folder(tmp_path / "families", every={"families": families})
    data = run("evaluate-ranking", folder, "-b", "tiny", "--within-families", "--json").data
    assert (data["within_families"], data["targets"], data["baselines"]["random"]["rho"]) == (True, 2, 1)
    assert run("evaluate-ranking", folder, "-b", "tiny", "--json").data["targets"] == 4
    shown = run("evaluate-ranking", folder, "-b", "tiny", "--within-families").out
    assert "tiny: 4 prompts, 2 targets, sources of the target's family, 95 %" in shown
    assert "Left out, because there is no other source of their family: cats, dogs." in shown
    ended = run("evaluate-ranking", write_folder(tmp_path / "none"), "-b", "tiny", "--within-families")
    assert_mistake(ended, "matrices.json has no 'families'; add them, by task, or rank across all tasks")


def test_where_no_source_gains_the_command_says_so(tmp_path: Path, run: Run) -> None:
    flat = [[0.4, 0.4, 0.4, 0.4, 0.5] for _ in range(4)]
    assert "No source gains anything on ants, bees, cats, dogs" in run(
        "evaluate-ranking", write_folder(tmp_path, matrix=flat), "-b", "tiny"
    ).out  # fmt: skip


def test_mistakes(tmp_path: Path, run: Run) -> None:
    folder = write_folder(tmp_path / "whole")
    ended = run("evaluate-ranking", folder, "-b", "huge")
    assert_mistake(ended, "has no backbone 'huge'; choose one of: tiny")
    assert_mistake(run("evaluate-ranking", tmp_path, "-b", "tiny"), "matrices.json; give the folder that it lies in")
    (tmp_path / "matrices.json").write_text("[]")
    assert_mistake(run("evaluate-ranking", tmp_path, "-b", "tiny"), "cannot be read as measured transfer")
    whole = (folder / "prompt_transfer_tiny.npz").read_bytes()
    (folder / "prompt_transfer_tiny.npz").write_bytes(whole[: len(whole) // 2])
    assert_mistake(run("evaluate-ranking", folder, "-b", "tiny"), "put the prompts there")
    (folder / "prompt_transfer_tiny.npz").unlink()
    assert_mistake(run("evaluate-ranking", folder, "-b", "tiny"), "put the prompts there")
    with pytest.raises(HubError, match="the matrix of 'tiny' is malformed"):
        MeasuredPrompts.read(write_folder(tmp_path / "short", matrix=[[0.1]]), "tiny")
    with pytest.raises(SettingError, match="unknown rule 'best'; choose one of: flat"):
        MeasuredPrompts.read(write_folder(tmp_path / "good"), "tiny").predicted("best")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real prompts are not on this machine")
@pytest.mark.parametrize(
    ("backbone", "rule", "rho", "ndcg", "regret"),
    [
        ("Roberta", "token_mean", 2.93, 86.0, 6.7),
        ("Roberta", "flat", 6.21, 70.1, 23.1),
        ("T5", "token_mean", 3.00, 95.2, 7.6),
        ("T5", "flat", 5.24, 80.6, 31.1),
    ],
)
def test_known_numbers_of_real_prompts(backbone: str, rule: str, rho: float, ndcg: float, regret: float) -> None:
    found = evaluate_prompt_rules(MeasuredPrompts.read(REAL, backbone), draws=10)
    assert found.mean("rho")[rule] == pytest.approx(rho, abs=0.006)
    assert 100 * found.mean("ndcg")[rule] == pytest.approx(ndcg, abs=0.06)
    assert 100 * found.mean("regret@1 share")[rule] == pytest.approx(regret, abs=0.06)
