from .backbones import Backbone
from .blending import RULES, SPACES, Blend, Merged, merge
from .blending.ensemble import ensemble
from .blending.start import Start
from .comparing.compare import compare
from .comparing.comparison import Comparison
from .comparing.methods import METHODS
from .embeddings import EMBEDDINGS
from .errors import HeadstartError
from .evaluating.evaluate import evaluate
from .evaluating.evaluation import Evaluation
from .evaluating.predict import predict
from .events import Listener
from .fitting.fit import fit
from .fitting.record import Fitted
from .hub import Hub, ModuleRef
from .indicators import INDICATORS
from .indicators.engine import score
from .kinds import KINDS, Module, load_module, save_module
from .kinds.exporting import save_merged
from .progress import ProgressPrinter
from .ranking.rank import Ranking, fits, rank
from .ranking.search import SearchResult, search
from .records import TextFormat
from .reports.html import write_report
from .tasks import METRICS, Example, Task
from .tuning.recipes import RECIPES, Recipe
from .tuning.tune import Tuned, tune

__all__ = [
    "EMBEDDINGS",
    "INDICATORS",
    "KINDS",
    "METHODS",
    "METRICS",
    "RECIPES",
    "RULES",
    "SPACES",
    "Backbone",
    "Blend",
    "Comparison",
    "Evaluation",
    "Example",
    "Fitted",
    "HeadstartError",
    "Hub",
    "Listener",
    "Merged",
    "Module",
    "ModuleRef",
    "ProgressPrinter",
    "Ranking",
    "Recipe",
    "SearchResult",
    "Start",
    "Task",
    "TextFormat",
    "Tuned",
    "compare",
    "ensemble",
    "evaluate",
    "fit",
    "fits",
    "load_module",
    "merge",
    "predict",
    "rank",
    "save_merged",
    "save_module",
    "score",
    "search",
    "tune",
    "write_report",
]

__version__: str
