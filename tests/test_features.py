"""Indicators of features: against formulas written out, direct maximization and hidden states in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from torch import Tensor

from headstart.backbones import Backbone
from headstart.indicators import FeatureIndicator, make_indicator
from headstart.indicators.engine import score, score_table
from headstart.kinds import LoraModule
from headstart.tasks import Example
from naive import BACKBONES, REVIEWS, Merged, encoded, load, random_lora

FEATURES = ("logme", "h_score", "knn")


def values(spec: str, features: Tensor, targets: Tensor) -> Tensor:
    indicator = make_indicator(spec)
    assert isinstance(indicator, FeatureIndicator)
    return indicator.from_features(features.double(), targets)


def blobs(examples: int, width: int, *, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two modules' features of two classes, whose means are this far apart in every dimension."""
    drawn = torch.Generator().manual_seed(seed)
    targets = torch.arange(examples) % 2
    features = torch.randn(2, examples, width, generator=drawn, dtype=torch.float64)
    return features + apart * targets.view(1, -1, 1), targets


# Neighbours


def test_knn_by_hand() -> None:
    # On a line: 0, 1, 2 of class 0 and 10, 11, 3 of class 1. The two nearest of 3 are 2 and 1: both of class 0.
    features = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 3.0]).view(1, 6, 1)
    targets = torch.tensor([0, 0, 0, 1, 1, 1])
    # The nearest of 2 are 1 and 3 (both at distance 1; the one that comes first is nearer): a tie, won by class 0.
    # Of 10: 11 (1) and 3 (7): class 1. Of 11: 10 and 3: class 1. Of 0: 1 and 2. Of 1: 0 and 2.
    assert values("knn:k=2", features, targets).tolist() == [[1, 1, 1, 1, 1, 0]]
    # All five others: the majority is of the other class for each.
    assert values("knn:k=99", features, targets).tolist() == [[0] * 6]


# H-score


def naive_h_score(f: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """tr(Σ_a⁻¹ (1 − a) Σ_between), entry by entry."""
    n, d = f.shape
    x = f - f.mean(0)
    sigma = sum(np.outer(row, row) for row in x) / n
    target = np.trace(sigma) / d * np.eye(d)
    error = sum(((np.outer(row, row) - sigma) ** 2).sum() for row in x) / n**2
    a = min(1.0, error / ((sigma - target) ** 2).sum())
    means = np.stack([x[y == label].mean(0) for label in y])
    between = means.T @ means / n
    return float(np.trace(np.linalg.inv((1 - a) * sigma + a * target) @ ((1 - a) * between)))


@pytest.mark.parametrize("shape", [(12, 5), (8, 20), (40, 3)], ids=str)
def test_h_score_against_its_formula(shape: tuple[int, int]) -> None:
    features, targets = blobs(*shape, apart=1.0)
    expected = [naive_h_score(own.numpy(), targets.numpy()) for own in features]
    assert values("h_score", features, targets).tolist() == pytest.approx(expected, rel=1e-9)


def test_h_score_of_features_without_spread() -> None:
    assert values("h_score", torch.ones(1, 6, 3), torch.arange(6) % 2).tolist() == [0.0]


# LogME


def direct_evidence(f: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """max over α and β of log N(y; 0, I/β + FFᵀ/α) / n, found by a general optimizer from several starts."""
    n = len(y)

    def loss(logs: NDArray[np.float64]) -> float:
        covariance = np.exp(-logs[1]) * np.eye(n) + np.exp(-logs[0]) * f @ f.T
        return -float(multivariate_normal(np.zeros(n), covariance, allow_singular=True).logpdf(y)) / n

    starts = [np.array([a, b]) for a in (-2.0, 0.0, 2.0, 4.0) for b in (-2.0, 0.0, 2.0)]
    found = [minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}) for start in starts]
    return -float(min(one.fun for one in found))


@pytest.mark.parametrize("apart", [0.3, 2.0])
@pytest.mark.parametrize("shape", [(14, 3), (12, 6)], ids=str)
def test_logme_against_direct_maximization(shape: tuple[int, int], apart: float) -> None:
    features, targets = blobs(*shape, apart=apart)
    sides = [(targets == label).double().numpy() for label in (0, 1)]
    expected = [np.mean([direct_evidence(own.numpy(), side) for side in sides]) for own in features]
    assert values("logme", features, targets).tolist() == pytest.approx(expected, rel=1e-5)


def test_logme_of_a_regression() -> None:
    features, _ = blobs(12, 4, apart=0.0)
    y = (features[0] @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)) + 0.1 * features[1, :, 0]
    expected = [direct_evidence(own.numpy(), y.numpy()) for own in features]
    found = values("logme", features, y).tolist()
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[0] > found[1]


@pytest.mark.parametrize("spec", FEATURES)
def test_features_that_tell_the_classes_apart_are_better(spec: str) -> None:
    near, targets = blobs(20, 30, apart=0.2)
    far, _ = blobs(20, 30, apart=3.0)
    found = values(spec, torch.cat([near[:1], far[:1]]), targets).reshape(2, -1).mean(1)
    assert torch.isfinite(found).all()
    assert found[1] > found[0]


@pytest.mark.parametrize("spec", FEATURES)
def test_neither_order_nor_rotation_nor_company_matters(spec: str) -> None:
    features, targets = blobs(12, 5, apart=0.7)
    expected = values(spec, features, targets).reshape(2, -1).mean(1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    changed = values(spec, (features @ turn)[:, order].flip(0), 1 - targets[order]).reshape(2, -1).mean(1).flip(0)
    assert changed.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert values(spec, features[1:], targets).mean().item() == pytest.approx(expected[1].item())


# In the engine


def head_reads(backbone: Backbone, module: LoraModule, index: int) -> Tensor:
    """What the head reads where the answer of an example begins, in float64 from merged weights."""
    merged, seen = Merged(backbone, module), list[Tensor]()
    handle = merged.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    item = encoded(backbone)[index]
    merged.logits(item)
    handle.remove()
    return seen[0][0, 0 if backbone.seq2seq else len(item.prompt) - 1].detach()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("budget", [None, 1])
def test_the_features_are_the_states_that_the_head_reads(
    name: str, budget: int | None, request: pytest.FixtureRequest
) -> None:
    backbone = load(request.getfixturevalue(name))
    modules = [random_lora(backbone, seed=seed, size=0.5) for seed in (1, 2)]
    states = torch.stack(
        [torch.stack([head_reads(backbone, module, index) for index in range(len(REVIEWS))]) for module in modules]
    )
    targets = torch.tensor([0, 1, 0, 0, 1, 1])
    found = score(modules, REVIEWS, backbone, indicators=[*FEATURES, "loss"], budget=budget)
    for spec in FEATURES:
        expected = values(spec, states, targets).reshape(2, -1).mean(1).tolist()
        assert found.values[spec] == pytest.approx(expected, rel=1e-3), spec


def test_open_answers_have_no_classes(llama: Backbone) -> None:
    rows = [Example(row.input, (f"answer {number}",)) for number, row in enumerate(REVIEWS)]
    found = score([random_lora(llama, seed=1)], rows, llama, indicators=FEATURES)
    for spec in FEATURES:
        reason = "6 examples have 6 different answers, so there are no classes to tell apart"
        assert found.reasons[spec] == {"random-1": reason}
        assert math.isnan(found.values[spec][0])
    one = [row for row in REVIEWS if row.target == "positive"]
    reasons = score([random_lora(llama, seed=1)], one, llama, indicators="knn").reasons
    assert reasons["knn"] == {"random-1": "all examples have the same answer, so there are no classes to tell apart"}


@pytest.mark.parametrize("value", [math.nan, 1e38])
def test_a_module_that_diverged_has_no_value_and_the_others_keep_theirs(llama: Backbone, value: float) -> None:
    good, bad = random_lora(llama, seed=1), random_lora(llama, seed=2)
    path = next(iter(bad.factors))
    broken = bad.factors[path].b.clone()
    broken[0, 0] = value
    bad = replace(bad, factors=dict(bad.factors) | {path: bad.factors[path]._replace(b=broken)})
    specs = [*FEATURES, "option_accuracy"]
    rows = [replace(row, options=("positive", "negative")) for row in REVIEWS]
    found = score([good, bad], rows, llama, indicators=specs)
    alone = score([good], rows, llama, indicators=specs)
    for spec in specs:
        assert found.values[spec][0] == pytest.approx(alone.values[spec][0], rel=1e-6)
        assert math.isnan(found.values[spec][1])
        assert found.reasons[spec] == {"random-2": "its predictions are not finite numbers"}
    if math.isnan(value):
        compared = ["arrow", "spectral", "weight_cosine"]
        embedded = ["tupate", "similarity:embedding=canonical", "similarity:embedding=flat"]
        found = score([good, bad], rows, llama, indicators=compared + embedded, reference=random_lora(llama, seed=3))
        for spec in compared:
            assert found.reasons[spec] == {"random-2": "its parameters are not all finite numbers"}
        for spec in embedded:
            reason = f"{path}.b of 'random-2' holds numbers that are not finite; tune it again"
            assert found.reasons[spec] == {"random-2": reason}
            assert math.isfinite(found.values[spec][0])


def test_a_centred_module_alone_is_its_own_mean(llama: Backbone) -> None:
    reference = random_lora(llama, seed=3)
    found = score(
        [random_lora(llama, seed=1)], REVIEWS, llama, indicators="similarity:centre=true", reference=reference
    )
    (reasons,) = found.reasons.values()
    assert reasons == {"random-1": "it, or the reference module, is the mean of those that are compared"}


def test_knn_has_a_value_for_each_example(llama: Backbone) -> None:
    table = score_table([random_lora(llama, seed=1)], REVIEWS, llama, indicators="knn:k=1")
    assert sorted(table.rows["example"]) == list(range(len(REVIEWS)))
    assert set(table.rows["value"]) <= {0.0, 1.0}
    assert set(table.rows["tokens"]) == {1}
