"""The texts of a task as the bare backbone reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.backbones import Backbone
from headstart.backbones.plan import pad, plan_batches
from headstart.embeddings.arrays import Array
from headstart.embeddings.contract import Embedding, Need, Subject, require_rows
from headstart.records import TextFormat
from headstart.tasks import Example

__all__ = ["TextEmb", "mean_hidden_state"]


@dataclass(frozen=True)
class TextEmb(Embedding):
    """The mean hidden state of the last layer over the inputs of `rows` training rows, without any module.

    Each text is the mean over its tokens, and the vector the mean over the texts. Of an encoder-decoder, the encoder
    reads them.
    """

    name = "textemb"
    source = "Vu et al., 2020, §4; a baseline of Zhou et al., 2022, §4.2"
    needs = frozenset({Need.DATA})
    alike = frozenset({"backbone"})

    rows: int = 100

    def __post_init__(self) -> None:
        require_rows(self.name, self.rows)

    def of(self, subject: Subject) -> Array:
        """(d,), d the width of the backbone. Raises `SettingError` without the task's rows and the backbone."""
        examples, backbone = subject.data(self.name, self.rows)
        return mean_hidden_state(examples, backbone, subject.text_format)


def mean_hidden_state(examples: Sequence[Example], backbone: Backbone, text_format: TextFormat) -> Array:
    """The mean over texts of the mean over tokens of the last layer's output, (d,), float64."""
    prompts = [backbone.encoder.prompt(example.text, text_format) for example in examples]
    reader = backbone.model.get_encoder() if backbone.seq2seq else backbone.decoder
    whole: Tensor | None = None
    plans = plan_batches([len(prompt) for prompt in prompts], budget=backbone.token_budget, pass_cost=0)
    for indices in plans:
        chosen = [prompts[index] for index in indices]
        mask = pad([[1] * len(prompt) for prompt in chosen], 0).to(backbone.device)
        with torch.inference_mode():
            found = reader(input_ids=pad(chosen, backbone.pad_id).to(backbone.device), attention_mask=mask)
        # In float64, which not every device computes in.
        weights = mask.cpu().unsqueeze(2).double()
        means = (found.last_hidden_state.cpu().double() * weights).sum(1) / weights.sum(1)
        whole = means.sum(0) if whole is None else whole + means.sum(0)
    assert whole is not None
    return (whole / len(prompts)).numpy()
