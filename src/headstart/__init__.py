"""Headstart finds, blends and tunes parameter-efficient modules to give a new task a head start.

>>> import headstart as hs                                   # doctest: +SKIP
>>> backbone = hs.Backbone.load("smollm2-135m")              # doctest: +SKIP
>>> start = hs.ensemble(hs.Task.load("task.jsonl"), hs.Hub.open("my-hub"), backbone)  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.backbones import Backbone
    from headstart.blending import merge
    from headstart.blending.ensemble import ensemble
    from headstart.comparing.compare import Blend, compare
    from headstart.comparing.comparison import Comparison
    from headstart.errors import HeadstartError
    from headstart.hub import Hub
    from headstart.indicators.engine import score
    from headstart.kinds import load_module, save_module
    from headstart.ranking.rank import fits, rank
    from headstart.reports.html import write_report
    from headstart.tasks import Task
    from headstart.tuning.evaluation import evaluate
    from headstart.tuning.recipes import Recipe
    from headstart.tuning.tune import tune

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Blend",
    "Comparison",
    "HeadstartError",
    "Hub",
    "Recipe",
    "Task",
    "compare",
    "ensemble",
    "evaluate",
    "fits",
    "load_module",
    "merge",
    "rank",
    "save_module",
    "score",
    "tune",
    "write_report",
]

_HOMES = {
    "Backbone": "backbones",
    "Blend": "comparing.compare",
    "Comparison": "comparing.comparison",
    "HeadstartError": "errors",
    "Hub": "hub",
    "Recipe": "tuning.recipes",
    "Task": "tasks",
    "compare": "comparing.compare",
    "ensemble": "blending.ensemble",
    "evaluate": "tuning.evaluation",
    "fits": "ranking.rank",
    "load_module": "kinds",
    "merge": "blending",
    "rank": "ranking.rank",
    "save_module": "kinds",
    "score": "indicators.engine",
    "tune": "tuning.tune",
    "write_report": "reports.html",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import headstart` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute '{name}'")
    return getattr(import_module(f"headstart.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
