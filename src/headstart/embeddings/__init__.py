"""Task embeddings, one file each: vectors that stand for a task, computed from the module tuned on it."""

from headstart.embeddings.tuned import tuned_parameters
from headstart.embeddings.unit import EmbedUnit, embed

__all__ = ["EmbedUnit", "embed", "tuned_parameters"]
