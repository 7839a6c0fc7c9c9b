"""Merging: which weight each module gets (`weights`), and in which space the weighted sum is taken (`spaces`)."""

from headstart.merging.merge import SPACES, Merged, merge
from headstart.merging.weights import check_softmax, effective_number, one_hot, softmax, uniform

__all__ = ["SPACES", "Merged", "check_softmax", "effective_number", "merge", "one_hot", "softmax", "uniform"]
