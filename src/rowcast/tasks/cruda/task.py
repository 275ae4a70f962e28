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
import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rowcast.errors import ConfigError, near_match
from rowcast.metric import Metric
from rowcast.streams import Sample
from rowcast.tasks.base import ShareDone, Task, TaskSettings, TaskWorker
from rowcast.tasks.cruda.data import Dataset, load_dataset
from rowcast.tasks.cruda.fitting import check_fit, fitted
from rowcast.tasks.cruda.models import ConvMLP, freeze_batch_norm, seeded_model
from rowcast.tasks.cruda.own import OWN_SETS
from rowcast.tasks.cruda.settings import MODEL_OPTIONS, CrudaOptions, CrudaSettings
from rowcast.tasks.cruda.shards import dirichlet_shards
from rowcast.tasks.cruda.shift import DomainShift
from rowcast.tasks.cruda.worker import CrudaWorker, endless_batches, one_cycle
from rowcast.tasks.devices import device_of
from rowcast.tasks.items import labelled
from rowcast.tasks.options import TaskOptions
from rowcast.tasks.saved import Labelled
from rowcast.tasks.states import State

__all__ = ["CrudaTask"]

_EVALUATION_BATCH = 250
"""Images of one forward pass of an evaluation; small enough to stay in the cache of a small CPU."""

# Streams of random numbers; each is seeded by (seed, stream, ...), so that none depends on another's use.
_INIT, _PRETRAIN, _TRAIN_SHIFT, _TEST_SHIFT, _SHARDS, _BATCHES = range(6)

#: Settings that do not change the starting model.
_LATER = (
    *("data_dir", "test_images", "severity", "alpha", "batch"),
    *("optimizer", "lr", "momentum", "weight_decay", "device"),
)


class CrudaTask(Task):
    """The job: data, starting model, shards and the measure of success.

    The same settings give the same state, shards, batches and fog on every node of a team, so the nodes need to
    exchange nothing but updates (floating-point sums may differ in the last digit with the number of threads).

    Args:
        settings: see :class:`CrudaSettings`.
        fit: fields of the model that are what the images need, whatever the settings say: some of 'in_channels',
            'classes' and 'stem_stride'.

    Raises:
        ConfigError: unknown data set, a model that does not fit its images, or no such device here.
        DataError: the data set cannot be read.
    """

    metrics = (Metric("accuracy", "%", "higher"), Metric("own_accuracy", "%", "higher"))
    Settings: ClassVar[type[TaskSettings]] = CrudaSettings
    #: The settings where nothing else is said, and what they are called in messages.
    preset: ClassVar[CrudaSettings] = CrudaSettings()
    name: ClassVar[str] = "cruda-digits"

    def __init__(self, settings: TaskSettings | None = None, *, fit: Collection[str] = ()) -> None:
        settings = settings or self.preset
        if not isinstance(settings, CrudaSettings):
            raise ConfigError(f"task {self.name}: expected CrudaSettings, got {settings!r}")
        self.dataset: Dataset = load_dataset(
            settings.dataset,
            settings.data_dir,
            train_images=settings.train_images,
            test_images=settings.test_images,
            image_size=settings.image_size,
        )
        if fit:
            settings = dataclasses.replace(settings, model=fitted(settings.model, self.dataset, fit))
        super().__init__(settings)
        self._device = device_of(settings.device)
        check_fit(settings.model, self.dataset)
        pixels = self.dataset.train_images
        self._mean = (pixels.mean(axis=(0, 2, 3), keepdims=True) / 255).astype(np.float32)
        self._std = (pixels.std(axis=(0, 2, 3), keepdims=True) / 255 + 1e-6).astype(np.float32)
        self._train_shift = DomainShift(len(pixels), settings.severity, self.rng(_TRAIN_SHIFT))
        self._test_shift = DomainShift(len(self.dataset.test_images), settings.severity, self.rng(_TEST_SHIFT))
        self._tests: dict[bool, Tensor] = {}
        self._clean: CrudaTask | None = None

    def pretrain(self, progress: ShareDone | None = None) -> State:
        """Train on the clean images and keep the result as the starting model of every worker.

        Args:
            progress: told after each step what share is done, above 0 .. 1.

        Returns:
            the state, arrays by parameter and buffer name (also as :attr:`state`).
        """
        return self.keep_state(self._clean_task()._trained(progress))

    def starting_key(self) -> str:
        clean = self._clean_task()
        settings = {key: value for key, value in vars(clean.settings).items() if key not in _LATER}
        digest = hashlib.sha256(repr(sorted(settings.items())).encode())
        for array in (clean.dataset.train_images, clean.dataset.train_labels):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def describe_start(self) -> str:
        model = self.model()
        return f"{self.clean_accuracy(model):.1f} % right on clean images, {self.accuracy(model):.1f} % in fog"

    def _clean_task(self) -> CrudaTask:
        """The task on whose images the starting model is trained: this one, or one with fewer of them."""
        most = self.settings.pretrain_images
        if most is None or len(self.dataset.train_images) <= most:
            return self
        if self._clean is None:
            self._clean = CrudaTask(dataclasses.replace(self.settings, train_images=most, test_images=1))
        return self._clean

    def _trained(self, progress: ShareDone | None) -> ConvMLP:
        """A model that was trained on the clean images."""
        settings = self.settings
        model = seeded_model(settings.model, _torch_seed(settings.seed, _INIT)).to(self._device)
        count = len(self.dataset.train_images)
        batch = min(settings.pretrain_batch, count)
        steps = settings.pretrain_epochs * (count // batch)
        if steps:
            optimizer = torch.optim.AdamW(model.parameters(), lr=settings.pretrain_lr, weight_decay=0.01)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
            labels = torch.from_numpy(self.dataset.train_labels).to(self._device)
            rng = self.rng(_PRETRAIN)
            order = endless_batches(np.arange(count), batch, rng)
            model.train()
            for step in range(steps):
                indices = next(order)
                optimizer.zero_grad()
                images = self._tensor(self.dataset.train_images[indices], jitter=rng)
                self.cross_entropy(model(images), labels[indices]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                if progress is not None:
                    progress((step + 1) / steps)
        return model

    def make_model(self) -> ConvMLP:
        return ConvMLP(self.settings.model)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        settings = self.settings
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

    def model(self) -> nn.Module:
        """A new model with the starting state, its batch norm frozen."""
        model = super().model().to(self._device)
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
            rng=self.rng(_SHARDS, workers),
        )

    def worker(self, index: int, workers: int) -> CrudaWorker:
        """The part of worker ``index`` (from 0) of a team of ``workers``.

        Raises:
            ConfigError: ``index`` not below ``workers``, or a set too small for so many shards.
            LocalProtocolError: no starting model yet.
        """
        foggy, labels = self._seen(index, workers)
        return CrudaWorker(self, foggy, labels, self.rng(_BATCHES, workers, index), index=index, workers=workers)

    def batches(self, index: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of :meth:`worker`, without a model."""
        worker = self.worker(index, workers)
        while True:
            yield worker.batch()

    def samples(self, index: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One foggy image ``(channels, height, width)`` and its label after the other, pass after pass.

        Raises:
            ConfigError: as :meth:`worker`.
        """
        images, labels = self._seen(index, workers)
        order = endless_batches(np.arange(len(labels)), 1, self.rng(_BATCHES, workers, index))
        return ((images[one], labels[one]) for (one,) in order)

    def decode(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """One of :meth:`samples`, as :func:`rowcast.tasks.pack_item` writes it."""
        return labelled(super().decode(sample), self.dataset.shape, len(self.dataset.classes))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of images ``(n, channels, height, width)`` with labels ``(n,)``; batch norm stays frozen."""
        images, labels = (each.to(self._device) for each in batch)
        freeze_batch_norm(model)
        return self.cross_entropy(model(images), labels)

    def class_names(self) -> tuple[str, ...]:
        return self.dataset.classes

    def labelled_tests(self) -> Labelled:
        """The foggy test images."""
        dataset = self.dataset
        return Labelled(self._test_inputs(True).cpu(), torch.from_numpy(dataset.test_labels), dataset.classes)

    def cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
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

    def evaluate(self, worker: TaskWorker) -> dict[str, float]:
        if not isinstance(worker, CrudaWorker):
            raise ConfigError(f"task {self.name}: expected a CrudaWorker, got {type(worker).__name__}")
        accuracy, own_accuracy = self.both_accuracies(worker.model, worker.labels)
        return {"accuracy": accuracy, "own_accuracy": own_accuracy}

    def clean_accuracy(self, model: nn.Module) -> float:
        """Percent of the clean test images that ``model`` classifies rightly; leaves its mode as it was."""
        return 100.0 * float(self._right(model, foggy=False).mean())

    def _seen(self, index: int, workers: int) -> tuple[Tensor, Tensor]:
        """The foggy images of the shard of a worker, and their labels."""
        self.check_index(index, workers)
        shard = self.shards(workers)[index]
        foggy = self._tensor(self.dataset.train_images[shard], shard, self._train_shift)
        return foggy, torch.from_numpy(self.dataset.train_labels[shard]).to(self._device)

    def _own(self, right: NDArray[np.bool_], labels: Tensor) -> float:
        classes = len(self.dataset.classes)
        tests = np.bincount(self.dataset.test_labels, minlength=classes)
        share = np.bincount(labels.cpu().numpy(), minlength=classes) * (tests > 0)
        rightly = np.bincount(self.dataset.test_labels, weights=right, minlength=classes)
        return 100.0 * float((share / share.sum() * rightly / np.maximum(tests, 1)).sum())

    def _right(self, model: nn.Module, foggy: bool) -> NDArray[np.bool_]:
        """Whether each test image is classified rightly, bool [images]."""
        images, labels = self._test_inputs(foggy), torch.from_numpy(self.dataset.test_labels).to(self._device)
        modes = [(module, module.training) for module in model.modules()]
        right = np.empty(len(labels), dtype=np.bool_)
        model.eval()
        try:
            with torch.inference_mode():
                for start in range(0, len(labels), _EVALUATION_BATCH):
                    part = slice(start, start + _EVALUATION_BATCH)
                    right[part] = (model(images[part]).argmax(dim=1) == labels[part]).cpu().numpy()
        finally:
            for module, training in modes:
                module.training = training
        return right

    def _test_inputs(self, foggy: bool) -> Tensor:
        """The test images as the model takes them; made once."""
        if foggy not in self._tests:
            every = np.arange(len(self.dataset.test_images))
            self._tests[foggy] = self._tensor(self.dataset.test_images, every, self._test_shift if foggy else None)
        return self._tests[foggy]

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
        return torch.from_numpy((images - self._mean) / self._std).to(self._device)

    # ---- from options to a task -----------------------------------------------------------------------------

    @classmethod
    def build(
        cls, options: Mapping[str, Any] | None = None, *, data_dir: str | Path | None = None, seed: int = 0
    ) -> CrudaTask:
        """Make the task.

        Args:
            options: fields of :class:`CrudaSettings` that differ from the defaults, or sizes of the model (``widths``,
                ``tokens`` and others of :class:`CrudaOptions`). Channels and classes of the model are those of the
                data set, unless ``model`` is given.
            data_dir: folder with the files of the data set; the digits need none.
            seed: everything random follows from it.

        Raises:
            ConfigError: an unknown setting, or a value out of range.
            DataError: the data set cannot be read.
        """
        settings, fit = cls._fitted_settings({**(options or {}), "seed": seed}, data_dir)
        return cls(settings, fit=fit)

    @classmethod
    def check(cls, options: Mapping[str, Any], *, data_dir: str | Path | None = None, workers: int = 1) -> None:
        own, _ = cls._fitted_settings(options, data_dir)
        device_of(own.device)
        dataset = load_dataset(own.dataset, data_dir, train_images=1, test_images=1, image_size=own.image_size)
        images = min(own.train_images or dataset.trainable, dataset.trainable)
        if own.batch * workers > images:
            raise ConfigError(
                f"task {cls.name}: {images} images for training are too few for {workers} robots with a "
                f"batch of {own.batch}; take fewer --workers or a smaller --batch"
            )

    @classmethod
    def options_type(cls) -> type[TaskOptions]:
        return CrudaOptions

    @classmethod
    def limit_tests(cls, options: Mapping[str, Any], items: int) -> dict[str, Any]:
        return {**options, "test_images": items}

    @classmethod
    def _fitted_settings(
        cls, options: Mapping[str, Any], data_dir: str | Path | None
    ) -> tuple[CrudaSettings, tuple[str, ...]]:
        """The settings with these changes, and what of the model is up to the images."""
        changes = dict(options)
        known = {field.name for field in dataclasses.fields(CrudaSettings)}
        for key in changes:
            if key not in known and key not in MODEL_OPTIONS:
                raise ConfigError(
                    f"task {cls.name}: unknown setting {key!r}; {near_match(key, [*known, *MODEL_OPTIONS])}"
                )
        if data_dir is not None:
            changes["data_dir"] = str(data_dir)
        fit: tuple[str, ...] = () if "model" in changes else ("in_channels", "classes")
        if fit and cls.preset.dataset in OWN_SETS and "stem_stride" not in changes:
            fit = (*fit, "stem_stride")
        sizes = {key: changes.pop(key) for key in MODEL_OPTIONS if key in changes}
        model = dataclasses.replace(changes.pop("model", cls.preset.model), **sizes)
        settings = dataclasses.replace(cls.preset, model=model, **changes)
        if settings.image_size is not None and settings.dataset != "images":
            raise ConfigError(f"image_size: goes with task 'cruda-images', got it for {cls.name!r}")
        return settings, fit


def _torch_seed(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
