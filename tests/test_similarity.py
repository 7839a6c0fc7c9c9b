"""`similarity`: which embeddings it compares, what its stored values depend on, and modules that cannot be read."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart.backbones import Backbone, BackboneInput, TextFormat
from headstart.embeddings import EMBEDDINGS, embed, make_embedding
from headstart.errors import SettingError
from headstart.indicators import make_indicator
from headstart.indicators.engine import score
from headstart.indicators.unit import ScoreUnit
from headstart.kinds import LazyModule, Module, fresh_module
from headstart.ranking.rank import load_modules, rank
from headstart.tasks import Task
from headstart.tasks.content import rows_read
from naive import REVIEWS
from small_hub import RECIPE, module, write_hub

pytest_plugins = ["small_road"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("similarity:embedding=taskemb", r"similarity: rows of .* 'taskemb' reads, are not there .* compare by tupate"),
        ("similarity:embedding=textemb,centre=true", r"which 'textemb' reads"),
        ("similarity:embedding=3e", r"which '3e' reads"),
        (
            "similarity:embedding=data_size",
            r"'data_size' reads how a module was tuned.* search --embedding",
        ),
        ("similarity:embedding=early", r"'early' reads how a module was tuned"),
        ("similarity:embedding=curve_gradient", r"'curve_gradient' reads how a module was tuned"),
        ("similarity:embedding=tupat", r"unknown embedding 'tupat'; .*did you mean 'tupate'\?"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(spec: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make_indicator(spec)


@pytest.mark.parametrize("spec", ["taskemb:rows=0", "textemb:rows=-3"])
def test_an_embedding_of_no_rows_is_refused(spec: str) -> None:
    with pytest.raises(SettingError, match=r"rows=(0|-3) reads nothing; give 1 or more"):
        make_embedding(spec)


def test_a_raised_version_of_the_embedding_is_computed_again(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    one = module(llama, "one", seed=1)

    def unit(indicator: str) -> ScoreUnit:
        return ScoreUnit(BackboneInput.of(llama), one, rows_read(REVIEWS), indicator, TextFormat(), one)

    specs = ("similarity:embedding=canonical", "similarity", "tupate", "cosine")
    before = {spec: unit(spec).key for spec in specs}
    assert [unit(spec).inputs.get("versions") for spec in specs] == [
        {"indicator similarity": 3}, {"indicator similarity": 3}, {"indicator tupate": 4}, None,
    ], "what was stored before embeddings had versions is still found"  # fmt: skip
    monkeypatch.setattr(EMBEDDINGS["canonical"], "version", 7)
    assert [spec for spec in specs if unit(spec).key != before[spec]] == ["similarity:embedding=canonical"]
    monkeypatch.setattr(EMBEDDINGS["tupate"], "version", 7)
    assert [spec for spec in specs if unit(spec).key != before[spec]] == list(specs[:3])


def test_a_mean_without_a_module_that_could_not_be_read_is_not_kept(
    task: Task, llama: Backbone, tmp_path: Path
) -> None:
    hub = write_hub(tmp_path / "hub", llama)
    modules, _ = load_modules(hub, llama)
    tensors = hub.path / "bob" / "adapter_model.safetensors"
    sound = tensors.read_bytes()

    def ranked() -> tuple[list[float], dict[str, str]]:
        found = rank(task, modules, llama, indicators="similarity:centre=true", recipe=RECIPE, store=tmp_path / "store")
        ((_, values),) = found.scores.values.items()
        ((_, reasons),) = found.scores.reasons.items() or [("", {})]
        return list(values), dict(reasons)

    tensors.write_bytes(b"cut short")
    values, reasons = ranked()
    assert all(map(math.isnan, values))
    assert all("is not a sound safetensors file" in reason for reason in reasons.values())
    tensors.write_bytes(sound)
    values, reasons = ranked()
    assert not any(map(math.isnan, values))
    whole: list[Module] = [one.load() if isinstance(one, LazyModule) else one for one in modules]
    direct = rank(task, whole, llama, indicators="similarity:centre=true", recipe=RECIPE, store=False)
    assert list(next(iter(direct.scores.values.values()))) == values


def test_without_a_store_the_others_keep_their_values(task: Task, llama: Backbone, tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub", llama)
    modules, _ = load_modules(hub, llama)
    (hub.path / "bob" / "adapter_model.safetensors").write_bytes(b"cut short")
    found = score(
        modules, task.dev, llama, indicators="tupate,similarity:centre=true", reference=module(llama, "r", seed=9)
    )
    missing = {spec: [math.isnan(value) for value in values] for spec, values in found.values.items()}
    assert missing == {"tupate": [False, True, False, False], "similarity:centre=True": [True] * 4}


def test_modules_of_another_kind_have_no_value_even_where_vectors_are_as_long(llama: Backbone) -> None:
    # A layer of rank-2 LoRA on q and v: 2·32 + 32·2 + 2·32 + 16·2 = 224; 7 keys and values of 16 numbers: 7·2·16 = 224.
    prefix = fresh_module("prefix", llama, {"length": 7, "reparametrized": False}, name="prefix", seed=0)
    prefix = prefix.with_parameters({name: torch.ones_like(value) for name, value in prefix.parameters().items()})
    loras = [module(llama, "one", seed=1), module(llama, "two", seed=2)]
    assert embed(prefix, store=False).dimension == embed(loras[0], store=False).dimension == 224
    for spec in ("tupate", "similarity:centre=true"):
        asked: dict[str, Any] = {"indicators": spec, "reference": module(llama, "r", seed=9)}
        ((name, alone),) = score(loras, REVIEWS, llama, **asked).values.items()
        both = score([*loras, prefix], REVIEWS, llama, **asked)
        assert list(both.values[name][:2]) == list(alone), "it is no part of the mean"
        assert not any(map(math.isnan, alone))
        assert math.isnan(both.values[name][2])
        assert both.reasons[name] == {"prefix": "its kind is prefix, the reference module's lora"}
