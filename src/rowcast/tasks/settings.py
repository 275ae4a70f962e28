"""Settings of the CRUDA task, and the built-in tasks by name."""

from __future__ import annotations

import dataclasses

from rowcast.config import Checked, setting
from rowcast.errors import ConfigError
from rowcast.tasks.models import ConvMLPConfig

__all__ = ["TASKS", "CrudaSettings"]

_DIGITS_MODEL = ConvMLPConfig(
    in_channels=1, tokens=24, stem_stride=1, conv_blocks=1, widths=(48, 96, 192), depths=(1, 1, 1), mlp_ratio=2
)

_WHOLE_NUMBERS = ("train_images", "test_images", "severity", "batch", "pretrain_epochs", "pretrain_batch", "seed")


@dataclasses.dataclass(frozen=True)
class CrudaSettings(Checked):
    """Settings of a :class:`CrudaTask`; the defaults are those of ``cruda-digits``.

    Raises:
        ConfigError: a value out of its range.
    """

    dataset: str = setting("digits", "Name of the data set: 'digits', 'fashion-mnist' or 'cifar10'.")
    data_dir: str | None = setting(None, "Folder with the files of the data set; 'digits' needs none.")
    train_images: int | None = setting(
        None, "Use only so many training images; none uses all.", unit="images", low=1, high=10_000_000
    )
    test_images: int | None = setting(
        None, "Use only so many test images; none uses all.", unit="images", low=1, high=10_000_000
    )
    model: ConvMLPConfig = dataclasses.field(default=_DIGITS_MODEL, metadata={"doc": "Size of the model."})
    severity: int = setting(3, "How thick the fog is; see rowcast.tasks.SEVERITIES.", low=1, high=5)
    alpha: float = setting(
        1.0, "Label skew of the shards: small gives each class to few workers, large mixes.", low=0.01, high=1e6
    )
    batch: int = setting(32, "Images of one step of one worker.", unit="images", low=1, high=65_536)
    lr: float = setting(
        0.006,
        "Learning rate of the adaptation. High rates do not bear updates that are some steps old.",
        low=0.0,
        high=10.0,
    )
    momentum: float = setting(
        0.7,
        "Nesterov momentum of the adaptation, local to each worker. It adds to the delay of stale updates.",
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
    seed: int = setting(0, "Everything random follows from it.", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, ConvMLPConfig):
            raise ConfigError(f"model: expected a ConvMLPConfig, got {self.model!r}")
        for name in _WHOLE_NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, int | None):
                raise ConfigError(f"{name}: expected a whole number, got {value!r}")


TASKS: dict[str, CrudaSettings] = {
    "cruda-digits": CrudaSettings(),
    "cruda-fashion-mnist": CrudaSettings(
        dataset="fashion-mnist",
        model=ConvMLPConfig(
            in_channels=1, tokens=32, stem_stride=2, conv_blocks=1, widths=(64, 128, 256), depths=(1, 1, 1), mlp_ratio=2
        ),
        pretrain_epochs=2,
        test_images=2000,
    ),
    "cruda-cifar10": CrudaSettings(
        dataset="cifar10",
        model=ConvMLPConfig(
            in_channels=3, tokens=32, stem_stride=2, conv_blocks=1, widths=(64, 128, 256), depths=(1, 2, 1), mlp_ratio=2
        ),
        pretrain_epochs=8,
        test_images=2000,
    ),
}
"""Settings of the built-in tasks by name."""
