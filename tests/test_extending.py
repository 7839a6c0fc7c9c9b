"""The packages of docs/extending.md, as they stand there, are installed, named, checked and used."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from headstart.cli.families import FAMILIES

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', PAGE, flags=re.MULTILINE | re.DOTALL))

USED = """
import math
import sys
import torch
from headstart.blending import RULES, Blend, Candidate, Request
from headstart.cli.families import FAMILIES
from headstart.indicators import TokenStatistics, make_indicator
from headstart.tasks import Task
from headstart.testing import check_embedding, check_indicator, check_kind, tiny_backbone
from headstart.tuning.recipes import RECIPES
from headstart.tuning.tune import tune

assert not [problem for family in FAMILIES.values() for problem in family.problems()]

# p = (1/2, 1/4, 1/4): the gold token 0 is ahead by log 2, token 1 behind by log 2 (of N = 1 module, M = 2 tokens).
logits = torch.tensor([[0.5, 0.25, 0.25]]).log().expand(1, 2, 3)
margin = make_indicator("margin").per_token(TokenStatistics(logits, torch.tensor([0, 1])))
assert torch.allclose(margin, torch.tensor([[math.log(2), -math.log(2)]])), margin
cut = make_indicator("margin:cut=0.5").per_token(TokenStatistics(logits, torch.tensor([0, 1])))
assert cut.tolist() == [[0.5, -0.5]], cut
outcomes = check_indicator("margin:cut=3")
assert not [outcome for outcome in outcomes if outcome.result == "failed"], outcomes

# Of 3 modules with scores, the best gets (1/2) / (7/8) = 4/7.
scores = (0.1, math.nan, 0.9, 0.5)
request = Request(Blend.parse("halving:indicator=loss"), [Candidate(str(i), score=s) for i, s in enumerate(scores)])
weights = RULES["halving"].weigh(request).weights.modules
assert all(math.isclose(*pair, abs_tol=1e-12) for pair in zip(weights, (1 / 7, 0, 4 / 7, 2 / 7), strict=True)), weights

outcomes = check_embedding("energy")
assert outcomes, outcomes
assert not [outcome for outcome in outcomes if outcome.result == "failed"], outcomes

outcomes = check_kind("steer", backbones=["llama"])
assert not [outcome for outcome in outcomes if outcome.result == "failed"], outcomes
assert len([outcome for outcome in outcomes if outcome.result == "passed"]) > 10, outcomes
backbone = tiny_backbone("llama")
rows = [{"input": f"film {i} is {word}", "output": word} for i, word in enumerate(["good", "bad"] * 4)]
task = Task.from_rows(splits={"train": rows, "dev": rows}, name="films", metric="ACC", labels=["good", "bad"])
recipe = RECIPES["quick"].change(kind="steer", max_steps=8, eval_every=4, warmup_steps=0, lr=0.1, select="loss")
tuned = tune(task, backbone, recipe=recipe, store=sys.argv[1])
assert tuned.best.dev_loss < 0.9 * tuned.curve[0].dev_loss, tuned.curve
assert tuned.module.kind == "steer"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, as an installer leaves them."""
    site = tmp_path_factory.mktemp("site")
    for name, text in BLOCKS.items():
        if name.endswith(".py"):
            (site / Path(name).name).write_text(text, encoding="utf-8")
            continue
        project = tomllib.loads(text)["project"]
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        groups = project["entry-points"].items()
        lines = [f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in own.items()) for group, own in groups]
        (info / "entry_points.txt").write_text("".join(lines))
    return site


def test_each_package_is_complete() -> None:
    names = {name.partition("/")[0] for name in BLOCKS}
    assert names == {"headstart-margin", "headstart-halving", "headstart-steer", "headstart-energy"}
    for name in names:
        assert f"{name}/pyproject.toml" in BLOCKS
        assert f"{name}/{name.replace('-', '_')}.py" in BLOCKS


def test_the_packages_work_as_the_page_says(site: Path) -> None:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", USED, str(site / "store")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr


def test_every_family_is_listed_with_its_group() -> None:
    groups = set(re.findall(r"\| `(headstart\.\w+)` \|", PAGE))
    assert groups == {family.group for family in FAMILIES.values()}
