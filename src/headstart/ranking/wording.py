"""Which texts have rare words in common with a query: TF-IDF, without a backbone."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from headstart.embeddings.arrays import Array

__all__ = ["word_vectors"]

WORD = re.compile(r"[^\W_]+")

SMALL = frozenset({
    "a", "about", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "of", "on", "or",
    "that", "the", "this", "to", "was", "were", "with",
})  # fmt: skip
"""Words that say nothing of what a text is about."""


def word_vectors(texts: Sequence[str], query: str) -> tuple[Array, Array]:
    """Vectors of `texts` (N, W) and of `query` (W,), over the W words of the query.

    A word counts (1 + log n) for n occurrences, times log((1 + N) / (1 + k)) + 1 where k of the N texts have it.
    Capital letters make no difference, and a word that begins with one of the query's, such as its plural, is that
    word. Words such as "of" count only in a query that has no others.
    """
    words = list(dict.fromkeys(_words(query)))
    wanted = [word for word in words if word not in SMALL] or words
    counts = np.array([[_count(word, Counter(_words(text))) for word in wanted] for text in texts], np.float64)
    counts = counts.reshape(len(texts), len(wanted))
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))) + 1
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * rarity
    return weights, rarity


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def _count(word: str, found: Counter[str]) -> int:
    return sum(count for other, count in found.items() if other.startswith(word))
