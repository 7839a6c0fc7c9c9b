"""Metrics by CrossFit's names: one file each, higher is better, undefined is NaN."""

from headstart.errors import SettingError
from headstart.registry import Registry
from headstart.tasks.metrics.acc import ACC
from headstart.tasks.metrics.classification_f1 import CLASSIFICATION_F1
from headstart.tasks.metrics.em import EM
from headstart.tasks.metrics.matthew_correlation import MATTHEW_CORRELATION
from headstart.tasks.metrics.metric import Metric
from headstart.tasks.metrics.pearson_correlation import PEARSON_CORRELATION
from headstart.tasks.metrics.qa_f1 import QA_F1
from headstart.tasks.metrics.rouge_l import ROUGE_L

__all__ = ["METRICS", "Metric"]


class _MetricRegistry(Registry[Metric]):
    """A registry that knows a name written in another case, and says so."""

    def __getitem__(self, name: str) -> Metric:
        try:
            return super().__getitem__(name)
        except SettingError as error:
            meant = next((known for known in self if known.lower() == str(name).lower()), None)
            raise SettingError(f"{error}; did you mean '{meant}'?" if meant else str(error)) from None


METRICS: Registry[Metric] = _MetricRegistry("metric", group="headstart.metrics")
"""All metrics by name; "Matthews" and "Pearson" are other names of the two correlations."""

for _metric in (ACC, CLASSIFICATION_F1, EM, QA_F1, ROUGE_L, MATTHEW_CORRELATION, PEARSON_CORRELATION):
    METRICS.add(_metric.name, _metric)
METRICS.add("Matthews", MATTHEW_CORRELATION)
METRICS.add("Pearson", PEARSON_CORRELATION)
