from .backbones import Backbone
from .blending import Blend, merge
from .blending.ensemble import ensemble
from .comparing.compare import compare
from .comparing.comparison import Comparison
from .errors import HeadstartError
from .evaluating.evaluate import evaluate
from .evaluating.predict import predict
from .hub import Hub
from .indicators.engine import score
from .kinds import load_module, save_module
from .ranking.rank import fits, rank
from .reports.html import write_report
from .tasks import Task
from .tuning.recipes import Recipe
from .tuning.tune import tune

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
    "predict",
    "rank",
    "save_module",
    "score",
    "tune",
    "write_report",
]

__version__: str
