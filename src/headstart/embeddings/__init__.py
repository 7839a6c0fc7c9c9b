"""Task embeddings: vectors that stand for a task, computed from the module tuned on it."""

from headstart.embeddings.tuned import tuned_parameters

__all__ = ["tuned_parameters"]
