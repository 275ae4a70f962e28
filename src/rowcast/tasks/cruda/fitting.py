"""A model that suits its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from rowcast.errors import ConfigError
from rowcast.tasks.cruda.dataset import Dataset
from rowcast.tasks.cruda.models import ConvMLPConfig

__all__ = ["check_fit", "fitted"]


def fitted(model: ConvMLPConfig, dataset: Dataset, fields: Collection[str]) -> ConvMLPConfig:
    """The model with what the images of ``dataset`` need in ``fields``."""
    channels, height, width = dataset.shape
    side = min(height, width)
    needed = {
        "in_channels": channels,
        "classes": len(dataset.classes),
        "stem_stride": 1 if side < 16 else 2 if side < 96 else 4,
    }
    changes: dict[str, Any] = {field: needed[field] for field in fields}
    return dataclasses.replace(model, **changes)


def check_fit(model: ConvMLPConfig, dataset: Dataset) -> None:
    """Raises ConfigError for a model of other channels or classes than the images have."""
    channels, classes = dataset.shape[0], len(dataset.classes)
    if (model.in_channels, model.classes) != (channels, classes):
        raise ConfigError(
            f"model: {dataset.name} has {channels} channels and {classes} classes, but the model is made for "
            f"{model.in_channels} and {model.classes}; set in_channels and classes"
        )
