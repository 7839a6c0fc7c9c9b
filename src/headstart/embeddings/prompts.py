"""How alike tasks are by their soft prompts alone: each rule turns prompts (N, tokens, d) into a table (N, N).

Entry (t, s) says what the prompt of source s promises to target t, which has a prompt of its own. The rules are no
embeddings, because some are not symmetric. None is fitted to anything, and none needs the backbone.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from headstart.embeddings.arrays import Array, centred, cosines, flattened, mean_over
from headstart.errors import SettingError

__all__ = ["PROMPT_DEFAULT", "PROMPT_RULES", "check_prompts"]

LEADING = 5
"""How many directions stand for what a prompt of some hundred tokens says; 3 and 10 do almost as well."""


def check_prompts(prompts: ArrayLike) -> Array:
    """The prompts in float64. Raises `SettingError` unless they are (N, tokens, d) and finite."""
    found = np.asarray(prompts, dtype=np.float64)
    if found.ndim != 3 or not found.size:
        raise SettingError(f"prompts of shape {found.shape} are not (sources, tokens, dimensions); stack them so")
    if not np.isfinite(found).all():
        raise SettingError("a prompt holds a number that is not finite; leave that source out")
    return found


def flat(prompts: Array) -> Array:
    """Cosine of all parameters, token by token."""
    rows = flattened(prompts)
    return cosines(rows, rows)


def token_mean(prompts: Array) -> Array:
    """Cosine of the mean over tokens, as the embedding "pooled" has it."""
    means = mean_over(prompts)
    return cosines(means, means)


def token_mean_centred(prompts: Array) -> Array:
    """The same less the mean over all tasks."""
    means = centred(mean_over(prompts))
    return cosines(means, means)


def unit_token_mean(prompts: Array) -> Array:
    """Cosine of the mean over tokens of length 1."""
    return token_mean(_unit_tokens(prompts))


def sign(prompts: Array) -> Array:
    """Cosine of the signs of the mean over tokens, so that no few dimensions of large values decide."""
    signs = np.sign(mean_over(prompts))
    return cosines(signs, signs)


def second_moment(prompts: Array) -> Array:
    """Cosine of the matrices Σ x xᵀ over tokens x of length 1, which the order of the tokens does not change."""
    unit = _unit_tokens(prompts)
    products = np.array([[np.square(one @ other.T).sum() for other in unit] for one in unit])
    sizes = np.sqrt(np.diag(products))
    return np.asarray(products / np.outer(sizes, sizes))


def span(prompts: Array) -> Array:
    """The share of the source's tokens, each of length 1, that lies in the target's leading directions.

    These are the first right singular vectors of the target's tokens.
    """
    unit = _unit_tokens(prompts)
    leading = np.linalg.svd(unit, full_matrices=False)[2][:, :LEADING]
    inside = np.array([[np.square(source @ own.T).sum() for source in unit] for own in leading])
    return np.asarray(inside / np.square(unit).sum((1, 2)))


def sign_span(prompts: Array) -> Array:
    """`sign` times `span`: the source points where the target does, and what it says lies in what the target says."""
    return np.asarray(sign(prompts) * span(prompts))


def _unit_tokens(prompts: Array) -> Array:
    """Every token at length 1, as some tokens of a tuned prompt are many times as long as others; zeros stay."""
    lengths = np.linalg.norm(prompts, axis=-1, keepdims=True)
    return np.asarray(prompts / np.where(lengths > 0, lengths, 1.0))


PROMPT_RULES: dict[str, Callable[[Array], Array]] = {
    rule.__name__: rule
    for rule in (flat, token_mean, token_mean_centred, unit_token_mean, sign, second_moment, span, sign_span)
}
"""The rules by name."""

PROMPT_DEFAULT = "sign_span"
"""The rule to use; docs/prompt-transfer.md says how it was chosen."""
