"""The mutation corpus: modules altered in a thousand ways, each of which must load correctly or be refused.

A folder from a stranger may be cut short, edited, made for another backbone, or an attack. `run_corpus` makes such
folders, loads every one in a process of its own, and compares what loads with what PEFT, or a plain formula, makes of
the same files.
"""

from tests.corpus.case import Case, Finding
from tests.corpus.run import FAMILIES, RESULTS, Corpus, run_corpus

__all__ = ["FAMILIES", "RESULTS", "Case", "Corpus", "Finding", "run_corpus"]
