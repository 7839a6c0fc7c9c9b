"""Tasks: named data sets with splits, in text-to-text form, with a metric and a family. Nothing here runs a model."""

from headstart.tasks.example import Example
from headstart.tasks.head import head_of
from headstart.tasks.metrics import METRICS, Metric
from headstart.tasks.task import Task, TaskLike, as_task

__all__ = ["METRICS", "Example", "Metric", "Task", "TaskLike", "as_task", "head_of"]
