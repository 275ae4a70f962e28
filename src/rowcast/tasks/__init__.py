"""What is trained: models, data, domain shift, and the task that ties them together."""

from rowcast.tasks.base import Metric, Task, TaskSettings, TaskWorker
from rowcast.tasks.cruda import CrudaTask, CrudaWorker, build_task
from rowcast.tasks.data import DATASETS, Dataset, load_dataset
from rowcast.tasks.models import ConvMLP, ConvMLPConfig, count_parameters, freeze_batch_norm
from rowcast.tasks.settings import TASKS, CrudaSettings, TaskOptions
from rowcast.tasks.shards import dirichlet_shards
from rowcast.tasks.shift import SEVERITIES, DomainShift, Severity, brightness, fog
from rowcast.tasks.states import State

__all__ = [
    "DATASETS",
    "SEVERITIES",
    "TASKS",
    "ConvMLP",
    "ConvMLPConfig",
    "CrudaSettings",
    "CrudaTask",
    "CrudaWorker",
    "Dataset",
    "DomainShift",
    "Metric",
    "Severity",
    "State",
    "Task",
    "TaskOptions",
    "TaskSettings",
    "TaskWorker",
    "brightness",
    "build_task",
    "count_parameters",
    "dirichlet_shards",
    "fog",
    "freeze_batch_norm",
    "load_dataset",
]
