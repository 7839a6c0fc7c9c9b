from .arrays import canonical_factors, centred, cosines, flattened, joined, mean_over, slopes
from .contract import Embedding, Need, Subject
from .parsing import make_embedding
from .registry import EMBEDDINGS
from .tupate import tuned_parameters
from .unit import EmbedUnit, embed

__all__ = [
    "EMBEDDINGS",
    "EmbedUnit",
    "Embedding",
    "Need",
    "Subject",
    "canonical_factors",
    "centred",
    "cosines",
    "embed",
    "flattened",
    "joined",
    "make_embedding",
    "mean_over",
    "slopes",
    "tuned_parameters",
]
