"""What cannot be blended is refused from the catalogue: without torch, and before a backbone is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from headstart.backbones import Backbone
from headstart.blending import SPACES, Blend, require_blendable
from headstart.blending.catalogued import EQUAL_SHAPES, PLAIN_LORA
from headstart.errors import MergeError, SettingError
from headstart.hub import Hub
from headstart.kinds import save_module
from made_by_peft import make
from small_hub import misfit, module, write_hub, write_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llama: Backbone, tiny_llama: Path) -> Path:
    """A folder with "hub" (ada, bob, cyd, dan, of rank 2; bea of rank 4; zoe, a DoRA) and "task"."""
    folder = tmp_path_factory.mktemp("catalogued")
    hub = write_hub(folder / "hub", llama)
    save_module(module(llama, "eve", seed=5, rank=4), folder / "eve")
    hub.add(folder / "eve", name="bea")
    hub.add(make(tiny_llama, folder / "zoe", use_dora=True))
    write_task(folder / "task")
    return folder


UNEQUAL = (
    r"^base_model\.model\.model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight is 4×32 in 'bea' and 2×32 in 'ada'; "
    r"merge them with space 'exact' or 'svd', or leave one out \(--exclude bea, or Hub.where\(exclude=…\)\)$"
)
VARIANT = r"'zoe' is a LoRA variant \(DoRA\) whose parameters have no exact merge with others; leave it out"


@pytest.mark.parametrize(
    ("blend", "said"),
    [
        ("softmax:space=parameters", UNEQUAL),
        ("top_k:top_k=2,space=ties", UNEQUAL),
        ("manual:members=ada,zoe", VARIANT),
        ("manual:members=ada,zoe,space=exact", "'zoe' is not a plain LoRA module, so space 'exact' does not apply"),
        ("manual:members=adda", "'adda' is no module that can take part; did you mean 'ada'"),
    ],
)
def test_the_catalogue_refuses(folder: Path, blend: str, said: str) -> None:
    with pytest.raises(MergeError, match=said):
        require_blendable(Blend.parse(blend), Hub.open(folder / "hub"))


@pytest.mark.parametrize(
    "blend",
    ["softmax", "softmax:space=svd", "best_single:space=parameters", "manual:members=ada,bob,space=parameters",
     "manual:members=zoe", "uniform:space=exact"],
)  # fmt: skip
def test_the_catalogue_lets_pass(folder: Path, blend: str) -> None:
    hub = Hub.open(folder / "hub").where(exclude="zoe") if blend.startswith("uniform") else Hub.open(folder / "hub")
    require_blendable(Blend.parse(blend), hub)
    with pytest.raises(SettingError, match="top_k 3 is not for rule 'manual'"):
        require_blendable(Blend.parse("manual:members=ada,top_k=3"), hub)


def test_a_module_that_may_not_fit_the_backbone_refuses_nobody(folder: Path, llama: Backbone, tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub", llama)
    save_module(misfit(llama, "odd"), tmp_path / "odd")
    hub.add(tmp_path / "odd")
    require_blendable(Blend(space="parameters"), hub)


def test_spaces_are_told_apart_as_they_say_themselves() -> None:
    assert {name for name, space in SPACES.items() if "equal shapes" in space.needs} == set(EQUAL_SHAPES)
    assert {name for name, space in SPACES.items() if "lora" in space.needs} == set(PLAIN_LORA)


@pytest.mark.parametrize(
    ("asked", "said"),
    [(["--space", "parameters"], "is 4×32 in 'bea'"), (["--recipe-file", "blend.yaml"], "LoRA variant (DoRA)")],
)
def test_no_torch_is_needed_to_refuse(folder: Path, tmp_path: Path, asked: list[str], said: str) -> None:
    (tmp_path / "blend.yaml").write_text("modules: {ada: 0.5, zoe: 0.5}")
    arguments = ["ensemble", str(folder / "task"), "--hub", str(folder / "hub"), "-b", "no-such-backbone", *asked]
    code = (
        f"import sys\nimport headstart.cli\nsys.argv = ['headstart', *{arguments!r}, '-o', 'start']\n"
        "try:\n    headstart.cli.main()\nfinally:\n    print(*({'torch', 'transformers', 'pandas'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert said in " ".join(done.stderr.split())
    assert done.stdout.strip() == ""
