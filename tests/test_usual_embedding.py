"""By what modules are compared if nothing is said: it depends on the kind of what is looked for."""

from pathlib import Path

import torch

import headstart as hs
from headstart.backbones import Backbone
from headstart.hub import Hub
from headstart.kinds import fresh_module, load_module
from headstart.ranking.search import search
from small_hub import RECIPE, module, write_hub, write_task


def test_modules_of_other_kinds_are_compared_by_their_parameters(llama: Backbone, tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub", llama)
    for number, name in enumerate(("one", "two", "three")):
        made = fresh_module("ia3", llama, {}, name=name, seed=0)
        draw = torch.Generator().manual_seed(number)
        values = {path: v + torch.randn(v.shape, generator=draw) for path, v in made.parameters().items()}
        hs.save_module(made.with_parameters(values), tmp_path / name)
        hub.add(tmp_path / name)
    assert search(None, hub, like="one", store=False).method == "tupate"
    assert search(None, hub, like=load_module(hub["one"]), store=False).method == "tupate"
    assert search(None, hub, like="ada", store=False).method == "gram"
    (tmp_path / "elsewhere").mkdir()
    made = fresh_module("ia3", llama, {}, name="four", seed=0)
    hs.save_module(made, tmp_path / "elsewhere" / "four")
    assert search(None, hub, like=tmp_path / "elsewhere" / "four", store=False).method == "tupate"


def test_a_task_is_looked_for_by_what_suits_its_own_module(llama: Backbone, tmp_path: Path) -> None:
    """Most modules are LoRA, but of several ranks; the commonest shape, which the task's module has, is (IA)³."""
    hub = Hub.create(tmp_path / "hub")
    for rank in (1, 2, 3):
        hs.save_module(module(llama, f"rank-{rank}", seed=rank, rank=rank), tmp_path / f"rank-{rank}")
        hub.add(tmp_path / f"rank-{rank}")
    for number, name in enumerate(("one", "two")):
        made = fresh_module("ia3", llama, {}, name=name, seed=0)
        draw = torch.Generator().manual_seed(number)
        values = {path: v + torch.randn(v.shape, generator=draw) for path, v in made.parameters().items()}
        hs.save_module(made.with_parameters(values), tmp_path / name)
        hub.add(tmp_path / name)
    task = hs.Task.load(write_task(tmp_path / "reviews"))
    found = search(task, hub, llama, recipe=RECIPE, store=False)
    assert found.method == "tupate"
    assert {row["module"] for row in found.rows()} == {"one", "two"}
    ranking = hs.rank(task, hub, llama, indicators="loss", recipe=RECIPE, retrieve=2, store=False)
    retrieved = {name for name, stage in zip(ranking.scores.names, ranking.stage, strict=True) if stage == "finalist"}
    assert retrieved == {"one", "two"}, "the only ones that can be compared with the reference module"
