"""Indicators of the answer without its end, and of its options: `python benchmarks/answer_indicators.py TASK …`.

`cosine` and `loss` are means over all target tokens, and the last of these is the end of the text. A module that is
sure of the end and knows nothing of the answer has a cosine of 0.5 where answers are of one token. The table is as that
of `transfer_tables.py predict`, which `transfer_tables.py show` holds against what starts are truly worth.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # scripts, which are not part of the package
from benchmarks.transfer import Protocol, module_folders, write  # noqa: E402
from benchmarks.transfer_tables import Seconds  # noqa: E402
from headstart.backbones import Backbone  # noqa: E402
from headstart.indicators import INDICATORS  # noqa: E402
from headstart.indicators.contract import OptionIndicator, TokenIndicator, TokenStatistics  # noqa: E402
from headstart.indicators.cosine import Cosine  # noqa: E402
from headstart.indicators.loss import Loss  # noqa: E402
from headstart.kinds import load_module  # noqa: E402
from headstart.ranking.rank import rank  # noqa: E402
from headstart.tasks import Task  # noqa: E402
from headstart.units import Store  # noqa: E402


@dataclass(frozen=True)
class WithoutEnd(TokenIndicator):
    """An indicator of tokens in which the token `end` counts 0."""

    end: Annotated[int, Field(ge=0)] = 0

    def kept(self, values: Tensor, tokens: TokenStatistics) -> Tensor:
        """The values, (N, M), 0 where the gold token is the end."""
        return values.masked_fill(tokens.gold == self.end, 0.0)


@dataclass(frozen=True)
class AnswerCosine(WithoutEnd):
    """`cosine` of the answer's own tokens."""

    name = "answer_cosine"
    source = "Lv et al., 2023, §2.2, without the end of the text"

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """cos(p_j, v_j), (N, M)."""
        return self.kept(Cosine().per_token(tokens), tokens)


@dataclass(frozen=True)
class AnswerLoss(WithoutEnd):
    """`loss` of the answer's own tokens."""

    name = "answer_loss"
    source = "Lv et al., 2023, §2.2, without the end of the text"

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """log p_j[gold], (N, M)."""
        return self.kept(Loss().per_token(tokens), tokens)


@dataclass(frozen=True)
class AnswerProbability(WithoutEnd):
    """The probability of the answer's own tokens."""

    name = "answer_probability"
    source = "this study"

    def per_token(self, tokens: TokenStatistics) -> Tensor:
        """p_j[gold], (N, M)."""
        return self.kept(tokens.gold_log_p.detach().exp(), tokens)


@dataclass(frozen=True)
class OptionLoss(OptionIndicator):
    """The log-probability of the right option among the options, as their likelihoods are."""

    name = "option_loss"
    source = "this study"

    def per_example(self, likelihoods: Tensor, right: Tensor) -> Tensor:
        """log Σ_right p / Σ p of each module, (N,)."""
        return likelihoods.double().log_softmax(1)[:, right].logsumexp(1)


@dataclass(frozen=True)
class OptionProbability(OptionIndicator):
    """The probability of the right option among the options, as their likelihoods are."""

    name = "option_probability"
    source = "this study"

    def per_example(self, likelihoods: Tensor, right: Tensor) -> Tensor:
        """Σ_right p / Σ p of each module, (N,)."""
        return likelihoods.double().softmax(1)[:, right].sum(1)


MEMBERS = (AnswerCosine, AnswerLoss, AnswerProbability, OptionLoss, OptionProbability)


def main(words: Sequence[str] | None = None) -> None:
    """Score every target's draws by all of them in one pass; the table is written anew after each draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", type=Path)
    parser.add_argument("--hub", nargs="+", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a Parquet file")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=Protocol().shots)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args(words)
    torch.set_num_threads(asked.threads)
    for member in MEMBERS:
        if member.name not in INDICATORS:
            INDICATORS.add(member.name, member)
    backbone = Backbone.load(asked.backbone, device="cpu", dtype=asked.dtype)
    modules, protocol = [load_module(folder) for folder in module_folders(asked.hub)], Protocol(asked.shots)
    end = backbone.tokenizer.eos_token_id
    specs = [
        f"{one.name}:end={end}" if issubclass(one, WithoutEnd) and end else one.name for one in MEMBERS
    ]  # fmt: skip
    store, found = Store(asked.store), []
    for folder in asked.tasks:
        task = Task.load(folder)
        others = [module for module in modules if module.card.task != task.name]
        for seed in range(asked.seeds):
            clock = Seconds()
            ranking = rank(
                protocol.drawn(task, seed), others, backbone, indicators=("loss", "cosine", *specs),
                recipe=protocol.recipe, seed=seed, store=store, progress=clock,
            )  # fmt: skip
            names = [module.name for module in ranking.modules]
            for spec, values in ranking.scores.values.items():
                scored = pd.DataFrame({"source": names, "value": values})
                method = spec.partition(":")[0]
                found.append(scored.assign(target=task.name, seed=seed, method=method, seconds=clock.total))
            write(asked.output, pd.concat(found, ignore_index=True))
            print(f"{task.name}, seed {seed}: done", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
