"""The CRUDA tasks by name, each with another data set, and the family that takes the one whose data is there."""

from __future__ import annotations

from pathlib import Path

from rowcast.errors import DataError
from rowcast.tasks.cruda.data import load_dataset
from rowcast.tasks.cruda.models import ConvMLPConfig
from rowcast.tasks.cruda.settings import CrudaSettings
from rowcast.tasks.cruda.task import CrudaTask

__all__ = ["CRUDA_TASKS", "PRESETS"]


def _own(dataset: str) -> CrudaSettings:
    """A data set of one's own; channels, classes and stride of the model are those that its images need."""
    model = ConvMLPConfig(
        in_channels=1, tokens=32, stem_stride=2, conv_blocks=1, widths=(64, 128, 256), depths=(1, 1, 1), mlp_ratio=2
    )
    return CrudaSettings(dataset=dataset, model=model, pretrain_epochs=4, test_images=2000)


PRESETS: dict[str, CrudaSettings] = {
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
    "cruda-idx": _own("idx"),
    "cruda-npz": _own("npz"),
    "cruda-images": _own("images"),
}
"""Settings of the CRUDA tasks by name."""


#: The first labels of Fashion-MNIST.
_FASHION_LABELS = (9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9)


class CrudaFamily(CrudaTask):
    """Whichever CRUDA task has its data in the folder that is given; without a folder, one that needs none."""

    name = "cruda"

    @classmethod
    def resolve(cls, name: str, data_dir: str | Path | None) -> str:
        """The name of the first task whose data is there.

        Raises:
            DataError: none is; the message says what each of them lacks.
        """
        without_folder = [task for task in PRESETS if _complaint(task, None) is None]
        if data_dir is None and without_folder:
            return without_folder[0]
        complaints = []
        for task in PRESETS:
            if data_dir is not None and (task in without_folder or not _is_what_it_says(task, data_dir)):
                continue
            complaint = _complaint(task, data_dir)
            if complaint is None:
                return task
            complaints.append(complaint)
        raise DataError(f"task {name!r}: none of its data sets is there: {'; '.join(complaints)}")


def _is_what_it_says(task: str, data_dir: str | Path) -> bool:
    """Files in the format and under the names of Fashion-MNIST may hold something else: MNIST, for one."""
    if task != "cruda-fashion-mnist" or _complaint(task, data_dir) is not None:
        return True
    labels = load_dataset("fashion-mnist", data_dir, train_images=len(_FASHION_LABELS), test_images=1).train_labels
    return tuple(labels.tolist()) == _FASHION_LABELS


def _complaint(task: str, data_dir: str | Path | None) -> str | None:
    """What is wrong with the data of a task, or ``None``."""
    try:
        load_dataset(PRESETS[task].dataset, data_dir, train_images=1, test_images=1)
    except DataError as error:
        return str(error)
    return None


def _task_of(name: str, settings: CrudaSettings) -> type[CrudaTask]:
    words = "".join(map(str.capitalize, name.split("-")))
    return type(words, (CrudaTask,), {"name": name, "preset": settings, "__module__": __name__, "__doc__": name})


#: What is registered: each task by its name, and the family.
CRUDA_TASKS: dict[str, type[CrudaTask]] = {
    **{name: _task_of(name, settings) for name, settings in PRESETS.items()},
    CrudaFamily.name: CrudaFamily,
}
