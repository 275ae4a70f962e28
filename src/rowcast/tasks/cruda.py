"""CRUDA: robots adapt a shared image classifier, together, to a domain that none of them has seen before.

A model is trained on clean images. Then it is taken outdoors: fog, and another brightness. The robots of the
team each see their own part of the foggy images, with their own mixture of classes, and train on together. The
accuracy on foggy test images falls when the fog comes and climbs back with the steps; how fast it climbs per
second is what a link policy is judged by.

Source of the job: the coordinated robotic unsupervised domain adaptation of the ROG paper (X. Guan et al.,
"ROG: A High Performance and Robust Distributed Training System for Robotic IoT", MICRO 2022, section VI),
which adapts a ConvMLP to foggy CIFAR-100. Here the labels are given, so that the curve measures the network
and not a pseudo-labelling scheme.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rowcast.errors import ConfigError, LocalProtocolError, near_match
from rowcast.tasks.data import Dataset, load_dataset
from rowcast.tasks.models import ConvMLP, ConvMLPConfig, freeze_batch_norm, seeded_model
from rowcast.tasks.own import OWN_SETS
from rowcast.tasks.settings import MODEL_OPTIONS, TASKS, CrudaSettings
from rowcast.tasks.shards import dirichlet_shards
from rowcast.tasks.shift import DomainShift
from rowcast.tasks.states import State, load_npz_state, save_npz_state

__all__ = ["CrudaTask", "CrudaWorker", "build_task", "task_settings"]

_EVALUATION_BATCH = 250
"""Images of one forward pass of an evaluation; small enough to stay in the cache of a small CPU."""

# Streams of random numbers; each is seeded by (seed, stream, ...), so that none depends on another's use.
_INIT, _PRETRAIN, _TRAIN_SHIFT, _TEST_SHIFT, _SHARDS, _BATCHES = range(6)


class CrudaTask:
    """The job: data, starting model, shards and the measure of success.

    The same settings give the same state, shards, batches and fog on every node of a team, so the nodes need to
    exchange nothing but updates (floating-point sums may differ in the last digit with the number of threads).

    Args:
        settings: see :class:`CrudaSettings`.
        fit: fields of the model that are what the images need, whatever the settings say: some of 'in_channels',
            'classes' and 'stem_stride'.

    Raises:
        ConfigError: unknown data set, or a model that does not fit its images.
        DataError: the data set cannot be read.
    """

    def __init__(self, settings: CrudaSettings | None = None, *, fit: Collection[str] = ()) -> None:
        settings = settings or CrudaSettings()
        self.dataset: Dataset = load_dataset(
            settings.dataset,
            settings.data_dir,
            train_images=settings.train_images,
            test_images=settings.test_images,
            image_size=settings.image_size,
        )
        if fit:
            settings = dataclasses.replace(settings, model=_fitted(settings.model, self.dataset, fit))
        self.settings = settings
        _check_fit(settings.model, self.dataset)
        pixels = self.dataset.train_images
        self._mean = (pixels.mean(axis=(0, 2, 3), keepdims=True) / 255).astype(np.float32)
        self._std = (pixels.std(axis=(0, 2, 3), keepdims=True) / 255 + 1e-6).astype(np.float32)
        self._train_shift = DomainShift(len(pixels), settings.severity, self._rng(_TRAIN_SHIFT))
        self._test_shift = DomainShift(len(self.dataset.test_images), settings.severity, self._rng(_TEST_SHIFT))
        self._tests: dict[bool, Tensor] = {}
        self._state: State | None = None

    @property
    def state(self) -> State:
        """The model after clean training, by parameter and buffer name.

        Raises:
            LocalProtocolError: neither :meth:`pretrain` nor :meth:`load_state` was called.
        """
        if self._state is None:
            raise LocalProtocolError("the task has no starting model; call pretrain() or load_state(path) first")
        return self._state

    def pretrain(self, progress: Callable[[float], None] | None = None) -> State:
        """Train on the clean images and keep the result as the starting model of every worker.

        Args:
            progress: told after each step what share is done, above 0 .. 1.

        Returns:
            the state, arrays by parameter and buffer name (also as :attr:`state`).
        """
        settings = self.settings
        model = seeded_model(settings.model, _torch_seed(settings.seed, _INIT))
        count = len(self.dataset.train_images)
        batch = min(settings.pretrain_batch, count)
        steps = settings.pretrain_epochs * (count // batch)
        if steps:
            optimizer = torch.optim.AdamW(model.parameters(), lr=settings.pretrain_lr, weight_decay=0.01)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _one_cycle(step, steps))
            labels = torch.from_numpy(self.dataset.train_labels)
            rng = self._rng(_PRETRAIN)
            order = _endless_batches(np.arange(count), batch, rng)
            model.train()
            for step in range(steps):
                indices = next(order)
                optimizer.zero_grad()
                images = self._tensor(self.dataset.train_images[indices], jitter=rng)
                self.loss(model(images), labels[indices]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                if progress is not None:
                    progress((step + 1) / steps)
        self._state = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
        return self._state

    def save_state(self, path: str | Path) -> None:
        """Write the starting model as an ``.npz`` file without pickles; the file appears whole or not at all."""
        save_npz_state(path, self.state)

    def load_state(self, path: str | Path) -> State:
        """Read a starting model that :meth:`save_state` wrote.

        Raises:
            DataError: no such file, not an ``.npz``, or a state of another model.
        """
        self._state = load_npz_state(path, like=seeded_model(self.settings.model, 0).state_dict())
        return self._state

    def model(self) -> ConvMLP:
        """A new model with the starting state, its batch norm frozen."""
        model = seeded_model(self.settings.model, 0)
        model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in self.state.items()})
        model.train()
        freeze_batch_norm(model)
        return model

    def shards(self, workers: int) -> list[NDArray[np.int64]]:
        """The numbers of the training images of each of ``workers`` workers; see :func:`dirichlet_shards`."""
        settings = self.settings
        return dirichlet_shards(
            self.dataset.train_labels,
            workers,
            alpha=settings.alpha,
            minimum=settings.batch,
            rng=self._rng(_SHARDS, workers),
        )

    def worker(self, index: int, workers: int) -> CrudaWorker:
        """The part of worker ``index`` (from 0) of a team of ``workers``.

        Raises:
            ConfigError: ``index`` not below ``workers``, or a set too small for so many shards.
            LocalProtocolError: no starting model yet.
        """
        if not 0 <= index < workers:
            raise ConfigError(f"worker index: expected 0..{workers - 1}, got {index!r}")
        shard = self.shards(workers)[index]
        foggy = self._tensor(self.dataset.train_images[shard], shard, self._train_shift)
        labels = torch.from_numpy(self.dataset.train_labels[shard])
        return CrudaWorker(self, self.model(), foggy, labels, self._rng(_BATCHES, workers, index))

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of ``scores`` ``(n, classes)`` against ``labels`` ``(n,)``, with label smoothing."""
        return functional.cross_entropy(scores, labels, label_smoothing=self.settings.label_smoothing)

    def accuracy(self, model: nn.Module) -> float:
        """Percent of the foggy test images that ``model`` classifies rightly; leaves its mode as it was."""
        return 100.0 * float(self._right(model, foggy=True).mean())

    def both_accuracies(self, model: nn.Module, labels: Tensor) -> tuple[float, float]:
        """The accuracy on the foggy test images, and on their classes mixed as in ``labels``; percent.

        The second is for each class the share of its test images that ``model`` classifies rightly, weighted with how
        often the class is in ``labels`` ``(n,)`` int64; classes without test images do not count.
        """
        right = self._right(model, foggy=True)
        return 100.0 * float(right.mean()), self._own(right, labels)

    def clean_accuracy(self, model: nn.Module) -> float:
        """Percent of the clean test images that ``model`` classifies rightly; leaves its mode as it was."""
        return 100.0 * float(self._right(model, foggy=False).mean())

    def _own(self, right: NDArray[np.bool_], labels: Tensor) -> float:
        classes = len(self.dataset.classes)
        tests = np.bincount(self.dataset.test_labels, minlength=classes)
        share = np.bincount(labels.numpy(), minlength=classes) * (tests > 0)
        rightly = np.bincount(self.dataset.test_labels, weights=right, minlength=classes)
        return 100.0 * float((share / share.sum() * rightly / np.maximum(tests, 1)).sum())

    def _right(self, model: nn.Module, foggy: bool) -> NDArray[np.bool_]:
        """Whether each test image is classified rightly, bool [images]."""
        if foggy not in self._tests:
            every = np.arange(len(self.dataset.test_images))
            self._tests[foggy] = self._tensor(self.dataset.test_images, every, self._test_shift if foggy else None)
        images, labels = self._tests[foggy], torch.from_numpy(self.dataset.test_labels)
        modes = [(module, module.training) for module in model.modules()]
        right = np.empty(len(labels), dtype=np.bool_)
        model.eval()
        try:
            with torch.inference_mode():
                for start in range(0, len(labels), _EVALUATION_BATCH):
                    part = slice(start, start + _EVALUATION_BATCH)
                    right[part] = (model(images[part]).argmax(dim=1) == labels[part]).numpy()
        finally:
            for module, training in modes:
                module.training = training
        return right

    def _tensor(
        self,
        pixels: NDArray[np.uint8],
        indices: NDArray[np.int64] | None = None,
        shift: DomainShift | None = None,
        jitter: np.random.Generator | None = None,
    ) -> Tensor:
        """Images as the model takes them: 0..1, shifted, then to mean 0 and deviation 1 of the clean training set."""
        images = pixels.astype(np.float32) / np.float32(255)
        if shift is not None and indices is not None:
            images = shift.apply(images, indices)
        if jitter is not None:
            each = (len(images), 1, 1, 1)
            share = jitter.uniform(0, self.settings.pretrain_jitter, each).astype(np.float32)
            grey = jitter.uniform(0, 1, each).astype(np.float32)
            images = images * (1 - share) + grey * share
        return torch.from_numpy((images - self._mean) / self._std)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *stream])


class CrudaWorker:
    """One robot of the team: a replica of the model, an optimizer, and its own foggy images.

    Attributes:
        model: the replica; batch norm frozen.
        optimizer: that of the settings, over the parameters of ``model``.
        images: ``(n, channels, height, width)`` float32, the shard.
        labels: ``(n,)`` int64.
    """

    def __init__(
        self, task: CrudaTask, model: ConvMLP, images: Tensor, labels: Tensor, rng: np.random.Generator
    ) -> None:
        settings = task.settings
        self.task, self.model, self.images, self.labels = task, model, images, labels
        self.optimizer = _optimizer(settings, model)
        self._order = _endless_batches(np.arange(len(labels)), settings.batch, rng)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next images ``(batch, channels, height, width)`` and labels ``(batch,)``, as the seed orders them."""
        indices = torch.from_numpy(next(self._order))
        return self.images[indices], self.labels[indices]

    def loss_step(self) -> float:
        """Zero the gradients, run the next batch forward and backward; the caller calls ``optimizer.step()``.

        Returns:
            the loss of the batch; see :meth:`CrudaTask.loss`.
        """
        images, labels = self.batch()
        freeze_batch_norm(self.model)
        self.optimizer.zero_grad()
        loss = self.task.loss(self.model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def accuracy(self, model: nn.Module | None = None) -> float:
        """Percent of the foggy test images that ``model`` (by default this replica) classifies rightly."""
        return self.task.accuracy(self.model if model is None else model)

    def both_accuracies(self) -> tuple[float, float]:
        """Percent of the foggy test images that this replica classifies rightly: all alike, and mixed as its shard."""
        return self.task.both_accuracies(self.model, self.labels)


def _endless_batches(indices: NDArray[np.int64], batch: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of one shuffled pass after another; a pass ends when fewer than ``batch`` images are left."""
    while True:
        order = rng.permutation(indices)
        for start in range(0, len(order) - batch + 1, batch):
            yield order[start : start + batch]


def _one_cycle(step: int, steps: int) -> float:
    """Share of the highest learning rate: a linear rise over the first quarter, then half a cosine down to 0."""
    rise = max(1, steps // 4)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / max(1, steps - rise))


def _torch_seed(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _optimizer(settings: CrudaSettings, model: nn.Module) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)


def _fitted(model: ConvMLPConfig, dataset: Dataset, fields: Collection[str]) -> ConvMLPConfig:
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


def _check_fit(model: ConvMLPConfig, dataset: Dataset) -> None:
    channels, classes = dataset.shape[0], len(dataset.classes)
    if (model.in_channels, model.classes) != (channels, classes):
        raise ConfigError(
            f"model: {dataset.name} has {channels} channels and {classes} classes, but the model is made for "
            f"{model.in_channels} and {model.classes}; set in_channels and classes"
        )


def build_task(name: str, data_dir: str | Path | None = None, **overrides: Any) -> CrudaTask:
    """Make a built-in task.

    Args:
        name: key of :data:`TASKS`.
        data_dir: folder with the files of the data set; ``cruda-digits`` needs none.
        overrides: fields of :class:`CrudaSettings` that shall differ from the task's defaults, or sizes of the model
            (``widths``, ``tokens`` and others of :class:`TaskOptions`). Channels and classes of the model are those
            of the data set, unless ``model`` is given.

    Raises:
        ConfigError: unknown name or setting, or a value out of range.
        DataError: the data set cannot be read.

    Example::

        task = build_task("cruda-digits", seed=1)
        task.pretrain()
        robot = task.worker(0, workers=4)
        robot.loss_step()
        robot.optimizer.step()
        print(robot.accuracy())
    """
    settings, fit = task_settings(name, data_dir, **overrides)
    return CrudaTask(settings, fit=fit)


def task_settings(
    name: str, data_dir: str | Path | None = None, **overrides: Any
) -> tuple[CrudaSettings, tuple[str, ...]]:
    """The settings of a task, and what of the model is up to its images; arguments as :func:`build_task`.

    Raises:
        ConfigError: unknown name or setting, or a value out of range.
    """
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}; {near_match(name, TASKS)}")
    known = {field.name for field in dataclasses.fields(CrudaSettings)}
    for key in overrides:
        if key not in known and key not in MODEL_OPTIONS:
            raise ConfigError(f"task {name}: unknown setting {key!r}; {near_match(key, [*known, *MODEL_OPTIONS])}")
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir)
    base = TASKS[name]
    fit: tuple[str, ...] = () if "model" in overrides else ("in_channels", "classes")
    if fit and base.dataset in OWN_SETS and "stem_stride" not in overrides:
        fit = (*fit, "stem_stride")
    sizes = {key: overrides.pop(key) for key in MODEL_OPTIONS if key in overrides}
    model = dataclasses.replace(overrides.pop("model", base.model), **sizes)
    settings = dataclasses.replace(base, model=model, **overrides)
    if settings.image_size is not None and settings.dataset != "images":
        raise ConfigError(f"image_size: goes with task 'cruda-images', got it for {name!r}")
    return settings, fit
