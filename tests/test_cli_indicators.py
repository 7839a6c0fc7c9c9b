"""`headstart rank` by every registered indicator, and modules that cannot be read or tuned."""

import math
from pathlib import Path

import pytest

from headstart.backbones import Backbone
from headstart.errors import ModuleError
from headstart.indicators import INDICATORS
from headstart.kinds import LazyModule, LoraModule, Module
from headstart.ranking.rank import rank
from program import QUICK, Run
from small_hub import RECIPE, module, write_hub, write_task

pytest_plugins = ["cli_helper"]
SHORT = {"euclidean": "euclidean:m=2", "performance": "performance:m=2"}
PARTS = ("hidden_cosine:block=1", "weight_cosine:block=0", "euclidean:block=1,m=2", "grand:sublayer=attention")


def test_the_program_ranks_by_every_indicator(run: Run, here: dict[str, list[str]], tmp_path: Path) -> None:
    specs = [*(SHORT.get(name, name) for name in INDICATORS), *PARTS]
    asked = [word for spec in specs for word in ("-i", spec)]
    store = ["--store", str(tmp_path / "store")]
    found = run("rank", *here["task"], *here["hub"], *here["on"], *asked, *QUICK, *store, "--json").data
    missing = [(row["module"], spec) for row in found["modules"] for spec in specs if row[spec] is None]
    assert not missing, found["reasons"]
    assert len(found["modules"]) == 4


def test_a_module_that_cannot_be_read_has_no_value_and_others_have(
    llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, task = write_hub(tmp_path / "hub", llama), write_task(tmp_path / "reviews")
    broken = hub.refs()[1].name
    load = LazyModule.load

    def failing(self: LazyModule) -> Module:
        if self.source.card.name == broken:
            raise ModuleError(f"'{broken}' is gone; add it again")
        return load(self)

    monkeypatch.setattr(LazyModule, "load", failing)
    asked = ["performance:m=2", "euclidean:m=2", "arrow", "option_accuracy", "knn"]
    found = rank(task, hub, llama, indicators=asked, recipe=RECIPE, store=False).scores
    for spec in asked:
        assert set(found.reasons[spec]) == {broken}
        assert "is gone; add it again" in found.reasons[spec][broken]
        known = [value for name, value in zip(found.names, found.values[spec], strict=True) if name != broken]
        assert known
        assert all(map(math.isfinite, known))


def test_a_variant_that_cannot_be_tuned_says_so(
    llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [module(llama, name, seed=seed) for seed, name in enumerate(("plain", "odd"), start=1)]
    alone = classmethod(lambda cls, card: "a LoRA variant" if card.name == "odd" else None)
    monkeypatch.setattr(LoraModule, "ranked_alone", alone)
    found = rank(
        write_task(tmp_path / "reviews"), modules, llama, indicators="performance:m=2", recipe=RECIPE, store=False
    ).scores
    assert found.reasons["performance:m=2"] == {"odd": "it is a LoRA variant, which can be ranked but not tuned"}
    assert math.isfinite(found.values["performance:m=2"][0])
