"""Settings of the CRUDA task, and what of them a user may set."""

from __future__ import annotations

import dataclasses
from typing import Any

from rowcast.config import setting
from rowcast.tasks.base import TaskSettings
from rowcast.tasks.cruda.models import ConvMLPConfig
from rowcast.tasks.options import TaskOptions

__all__ = ["MODEL_OPTIONS", "OPTIMIZERS", "CrudaOptions", "CrudaSettings"]

_DIGITS_MODEL = ConvMLPConfig(
    in_channels=1, tokens=24, stem_stride=1, conv_blocks=1, widths=(48, 96, 192), depths=(1, 1, 1), mlp_ratio=2
)

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclasses.dataclass(frozen=True)
class CrudaSettings(TaskSettings):
    """Settings of a :class:`CrudaTask`; the defaults are those of ``cruda-digits``.

    Raises:
        ConfigError: a value out of its range.
    """

    dataset: str = setting("digits", "Name of the data set, a key of rowcast.tasks.cruda.DATASETS.")
    train_images: int | None = setting(
        None, "Use only so many training images; none uses all.", unit="images", low=1, high=10_000_000
    )
    test_images: int | None = setting(
        None, "Use only so many test images; none uses all.", unit="images", low=1, high=10_000_000
    )
    model: ConvMLPConfig = dataclasses.field(default=_DIGITS_MODEL, metadata={"doc": "Size of the model."})
    image_size: int | None = setting(
        None, "Pixels a side to which a folder of images is resized; none: 32.", unit="pixels", low=8, high=512
    )
    severity: int = setting(3, "How thick the fog is; see rowcast.tasks.cruda.SEVERITIES.", low=1, high=5)
    alpha: float = setting(
        1.0, "Label skew of the shards: small gives each class to few workers, large mixes.", low=0.01, high=1e6
    )
    batch: int = setting(32, "Images of one step of one worker.", unit="images", low=1, high=65_536)
    optimizer: str = setting(
        "sgd", f"Optimizer of the adaptation: {', '.join(map(repr, OPTIMIZERS))}.", choices=OPTIMIZERS
    )
    lr: float = setting(
        0.006,
        "Learning rate of the adaptation. High rates do not bear updates that are some steps old.",
        low=0.0,
        high=10.0,
    )
    momentum: float = setting(
        0.7,
        "Nesterov momentum of the adaptation with 'sgd', local to each worker. It adds to the delay of stale updates.",
        low=0.0,
        high=0.999,
    )
    weight_decay: float = setting(5e-4, "Weight decay of the adaptation.", low=0.0, high=1.0)
    label_smoothing: float = setting(
        0.1, "Share of each label that is spread over all classes; keeps the curvature low.", low=0.0, high=0.9
    )
    pretrain_epochs: int = setting(6, "Passes over the clean training set.", unit="epochs", low=0, high=10_000)
    pretrain_batch: int = setting(64, "Images of one step of the clean training.", unit="images", low=2, high=65_536)
    pretrain_lr: float = setting(
        3e-3, "Highest learning rate of the clean training (AdamW, one cycle).", low=0.0, high=1.0
    )
    pretrain_jitter: float = setting(
        0.2,
        "Clean training blends each image with a random grey by up to this share. Without it, how far the accuracy "
        "falls in the fog is a matter of the seed.",
        low=0.0,
        high=0.9,
    )
    pretrain_images: int | None = setting(
        12_000,
        "Clean training uses at most so many images, the first of the set: enough to begin from, few enough to make "
        "many starting models; none uses all.",
        unit="images",
        low=1,
        high=10_000_000,
    )
    device: str = setting("cpu", "Where the model is computed, as PyTorch names it: 'cpu', 'cuda', 'cuda:1', 'mps'.")


#: Options of a task that are sizes of its model.
MODEL_OPTIONS = ("tokens", "stem_stride", "conv_blocks", "widths", "depths", "mlp_ratio")


def _option(name: str) -> Any:
    """The setting of this name, or none: then the task's own."""
    field = CrudaSettings.__dataclass_fields__[name]
    return dataclasses.field(default=None, metadata=field.metadata)


@dataclasses.dataclass(frozen=True)
class CrudaOptions(TaskOptions):
    """What a user may set of a CRUDA task; in a file, the table ``[task]``. None: the task's own.

    Raises:
        ConfigError: a value out of its range.
    """

    optimizer: str | None = _option("optimizer")
    lr: float | None = _option("lr")
    momentum: float | None = _option("momentum")
    weight_decay: float | None = _option("weight_decay")
    label_smoothing: float | None = _option("label_smoothing")
    batch: int | None = _option("batch")
    alpha: float | None = _option("alpha")
    severity: int | None = _option("severity")
    train_images: int | None = _option("train_images")
    image_size: int | None = _option("image_size")
    pretrain_epochs: int | None = _option("pretrain_epochs")
    pretrain_batch: int | None = _option("pretrain_batch")
    pretrain_lr: float | None = _option("pretrain_lr")
    pretrain_jitter: float | None = _option("pretrain_jitter")
    pretrain_images: int | None = _option("pretrain_images")
    tokens: int | None = setting(None, "Channels after the model's tokenizer, even.", low=2, high=4096)
    stem_stride: int | None = setting(
        None, "By how much the tokenizer shrinks an image: 1, 2 or 4; of one's own data: by its size.", low=1, high=4
    )
    conv_blocks: int | None = setting(None, "Bottleneck blocks of the convolution stage.", low=0, high=100)
    widths: tuple[int, ...] | None = setting(None, "Channels of each conv-MLP stage, as [64, 128].", low=1, high=16_384)
    depths: tuple[int, ...] | None = setting(None, "Blocks of each stage, as many as widths.", low=1, high=100)
    device: str | None = _option("device")
    mlp_ratio: int | None = setting(None, "Hidden channels of a channel MLP over its width.", low=1, high=64)
