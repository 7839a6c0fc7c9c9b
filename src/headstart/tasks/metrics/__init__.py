"""Metrics, one file each, under CrossFit's names: higher is better, undefined is NaN."""

from headstart.registry import Registry
from headstart.tasks.metrics.metric import Metric

__all__ = ["METRICS", "Metric"]

METRICS: Registry[Metric] = Registry(
    "metric",
    group="headstart.metrics",
    contract="headstart.tasks.metrics:Metric",
    instances=True,
    members={
        "ACC": "headstart.tasks.metrics.acc:ACC",
        "Classification-F1": "headstart.tasks.metrics.classification_f1:CLASSIFICATION_F1",
        "EM": "headstart.tasks.metrics.em:EM",
        "QA-F1": "headstart.tasks.metrics.qa_f1:QA_F1",
        "Rouge-L": "headstart.tasks.metrics.rouge_l:ROUGE_L",
        "Matthew-Correlation": "headstart.tasks.metrics.matthew_correlation:MATTHEW_CORRELATION",
        "Pearson-Correlation": "headstart.tasks.metrics.pearson_correlation:PEARSON_CORRELATION",
        "Matthews": "headstart.tasks.metrics.matthew_correlation:MATTHEW_CORRELATION",
        "Pearson": "headstart.tasks.metrics.pearson_correlation:PEARSON_CORRELATION",
    },
)
"""All metrics by name; "Matthews" and "Pearson" are other names of the two correlations."""
