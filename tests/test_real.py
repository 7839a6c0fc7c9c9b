"""Real weights and real modules, after `make demo` has fetched them: `make slow`."""

from pathlib import Path

import pytest
import torch

from headstart.backbones import Backbone, TextFormat
from headstart.hub import Hub
from headstart.kinds import load_module
from headstart.ranking.rank import rank
from headstart.tasks import Task

ROOT = Path(__file__).parents[1]
BACKBONE, SST2 = ROOT / ".cache" / "backbones" / "smollm2-135m", ROOT / ".cache" / "tasks" / "sst2"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BACKBONE.exists() or not SST2.exists(), reason="run `make demo` once: it fetches them"),
]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(BACKBONE, device="cpu", dtype="float32")


@pytest.mark.parametrize("name", ["amazon_polarity", "snli", "web_questions"])
def test_a_real_module_computes_what_peft_computes(name: str, backbone: Backbone) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    module = load_module(ROOT / "demo" / "hub" / name)
    module.check(backbone)
    (item,) = backbone.encode([("a warm and funny film", "positive")], TextFormat())
    with torch.inference_mode(), type(module).stack([module], backbone).attach(backbone):
        ours = backbone.target_logits(backbone.batch([item], [0]))[0]
    model = AutoModelForCausalLM.from_pretrained(BACKBONE, dtype=torch.float32)
    wrapped = PeftModel.from_pretrained(model, ROOT / "demo" / "hub" / name).eval()
    with torch.inference_mode():
        theirs = wrapped(input_ids=torch.tensor([item.prompt + item.target[:-1]])).logits[0, len(item.prompt) - 1 :]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_sentiment_modules_lead_on_a_sentiment_task(backbone: Backbone, tmp_path: Path) -> None:
    hub = Hub.create(tmp_path / "hub")
    hub.add_all(sorted(folder for folder in (ROOT / "demo" / "hub").iterdir() if folder.is_dir()))
    ranking = rank(Task.load(SST2), hub, backbone, indicators=("cosine", "loss"), recipe="quick")
    assert ranking.refused == ()
    assert list(ranking.frame()["module"][:2]) == ["amazon_polarity", "tweet_eval-sentiment"]
