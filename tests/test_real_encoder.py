"""The real encoder, after `python demo/fetch.py encoder sst2` has fetched it: `make slow`."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from headstart.backbones import Backbone, EncoderBackbone, TextFormat
from headstart.kinds import fresh_module, save_module, stack_of
from headstart.records import HeadCard
from headstart.tasks import Task
from headstart.tuning.recipes import RECIPES
from headstart.tuning.tune import tune
from naive import assert_close

ROOT = Path(__file__).parents[1]
ENCODER, SST2 = ROOT / ".cache" / "backbones" / "minilm-l6", ROOT / ".cache" / "tasks" / "sst2"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not ENCODER.exists() or not SST2.exists(), reason="run `python demo/fetch.py encoder sst2` once"
    ),
]
TEXTS = [("a warm and funny film", "b"), ("dull", "a"), ("it never comes to life , and nobody will miss it", "c")]
LABELS = HeadCard(task="classification", outputs=3, labels=("a", "b", "c"))


@pytest.fixture(scope="module")
def encoder() -> EncoderBackbone:
    found = Backbone.load(ENCODER, device="cpu", dtype="float32")
    assert isinstance(found, EncoderBackbone)
    return found


def moved(values: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in values.items()}


@pytest.mark.parametrize("kind", ["lora", "ia3", "prompt", "prefix"])
def test_a_module_with_its_head_computes_in_peft_what_it_does_here(
    kind: str, encoder: EncoderBackbone, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    fresh = fresh_module(kind, encoder, {}, name="m", seed=0)
    module = fresh.with_parameters(moved(fresh.parameters())).with_head(encoder.fresh_head(LABELS, seed=0))
    items = encoder.encode(TEXTS, TextFormat(), head=LABELS)
    with torch.inference_mode(), stack_of([module], encoder).attach(encoder):
        ours = encoder.target_logits(encoder.batch(items, range(3)))[0]
    save_module(module, tmp_path / "m")
    model = AutoModelForSequenceClassification.from_pretrained(ENCODER, num_labels=3, dtype=torch.float32)
    wrapped = PeftModel.from_pretrained(model, tmp_path / "m").eval()
    with torch.inference_mode():
        theirs = [wrapped(torch.tensor([i.prompt]), torch.ones(1, len(i.prompt), dtype=torch.long)) for i in items]
    assert_close(ours, torch.cat([found.logits for found in theirs]), within=1e-5)
    assert (ours[0] - ours[1]).abs().max() > 1e-3, "the text must matter for this to say anything"


def test_a_few_examples_teach_it_sentiment(encoder: EncoderBackbone) -> None:
    recipe = RECIPES["quick"].change(lr=3e-3, max_steps=96)
    curve = tune(Task.load(SST2), encoder, recipe=recipe, store=False).curve
    assert curve[0].dev_score < 0.65, "the head is fresh"
    assert max(point.dev_score for point in curve) > 0.75
