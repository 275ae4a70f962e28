"""CRUDA: robots adapt a shared image classifier, together, to a domain that none of them has seen before."""

from rowcast.tasks.cruda.data import DATASETS, Dataset, load_dataset
from rowcast.tasks.cruda.models import ConvMLP, ConvMLPConfig, count_parameters, freeze_batch_norm
from rowcast.tasks.cruda.presets import CRUDA_TASKS, PRESETS
from rowcast.tasks.cruda.settings import CrudaOptions, CrudaSettings
from rowcast.tasks.cruda.shards import dirichlet_shards
from rowcast.tasks.cruda.shift import SEVERITIES, DomainShift, Severity, brightness, fog
from rowcast.tasks.cruda.task import CrudaTask
from rowcast.tasks.cruda.worker import CrudaWorker

__all__ = [
    "CRUDA_TASKS",
    "DATASETS",
    "PRESETS",
    "SEVERITIES",
    "ConvMLP",
    "ConvMLPConfig",
    "CrudaOptions",
    "CrudaSettings",
    "CrudaTask",
    "CrudaWorker",
    "Dataset",
    "DomainShift",
    "Severity",
    "brightness",
    "count_parameters",
    "dirichlet_shards",
    "fog",
    "freeze_batch_norm",
    "load_dataset",
]
