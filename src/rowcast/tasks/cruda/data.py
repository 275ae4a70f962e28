"""The data sets of the built-in tasks, as arrays with a train and a test part.

=============  ==================================================  ==================================
name           images                                              where from
=============  ==================================================  ==================================
digits         1 x 8 x 8, 1,297 for training and 500 for testing   comes with Rowcast
fashion-mnist  1 x 28 x 28, 60,000 and 10,000                      a folder with the four ``.gz`` files
cifar10        3 x 32 x 32, up to 50,000 and 10,000                a folder with ``.npz`` files
idx            any set in the format of MNIST                      a folder with idx files
npz            any set as arrays                                   an ``.npz`` archive
images         a sub-folder for each class, resized                a folder of images
=============  ==================================================  ==================================

Nothing that is read here is unpickled or executed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowcast.errors import ConfigError, DataError, near_match
from rowcast.tasks._files import checked_pair, decode_jpegs, open_folder, read_idx, read_npz
from rowcast.tasks.cruda.dataset import Dataset
from rowcast.tasks.cruda.own import load_idx, load_images, load_npz

__all__ = ["DATASETS", "Dataset", "load_cifar10", "load_dataset", "load_digits", "load_fashion_mnist"]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

_FASHION_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_OTHER_SET = "another set in this format is the data set 'idx' (task cruda-idx)"
_CIFAR_JPEG_FILES = ("cifar10_train_jpeg.npz", "cifar10_test_a_jpeg.npz")
_CIFAR_SMALL_FILE = "cifar10_small_uint8.npz"
#: In the wheel: ``images`` uint8 (1797, 8, 8) from 0 to 16, ``labels`` uint8 (1797,), in the order of scikit-learn.
_DIGITS_FILE = Path(__file__).with_name("digits.npz")
_DIGITS_TEST = 500
_DIGITS_SPLIT_SEED = 1797


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    train_images: int | None = None,
    test_images: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Load a data set by name.

    Args:
        name: key of :data:`DATASETS`.
        data_dir: folder with the files; ``digits`` needs none.
        train_images, test_images: keep only so many, the first ones (the order is mixed in all three sets);
            ``None`` keeps all.
        image_size: pixels a side to which 'images' are resized.

    Raises:
        ConfigError: unknown name.
        DataError: folder or files missing or not in the expected format.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}; {near_match(name, DATASETS)}")
    if image_size is not None:
        if name != "images":
            raise ConfigError(f"image_size: goes with a folder of images, got it for the data set {name!r}")
        return load_images(data_dir, train_images, test_images, size=image_size)
    return DATASETS[name](data_dir, train_images, test_images)


def load_digits(
    data_dir: str | Path | None = None, train_images: int | None = None, test_images: int | None = None
) -> Dataset:
    """1,797 handwritten digits, the same as in scikit-learn; the split is the same for every seed.

    They are in the wheel, so that a demo needs nothing else: 45 kB.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998 (its test set;
    CC BY 4.0).
    """
    images, labels = _packed_digits()
    order = np.random.default_rng(_DIGITS_SPLIT_SEED).permutation(len(images))
    pixels = np.rint(images[order] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    numbers = labels[order]
    train, test = slice(_DIGITS_TEST, None), slice(None, _DIGITS_TEST)
    return Dataset(
        "digits",
        pixels[train][:train_images],
        numbers[train][:train_images],
        pixels[test][:test_images],
        numbers[test][:test_images],
        tuple(str(digit) for digit in range(10)),
        (len(numbers[train]), len(numbers[test])),
    )


def _packed_digits() -> tuple[Images, Labels]:
    """Pixels ``(n, 64)`` from 0 to 16, and labels ``(n,)``, in the order of scikit-learn."""
    with np.load(_DIGITS_FILE) as arrays:
        return arrays["images"].reshape(-1, 64), arrays["labels"].astype(np.int64)


def load_fashion_mnist(
    data_dir: str | Path | None, train_images: int | None = None, test_images: int | None = None
) -> Dataset:
    """Fashion-MNIST from a folder with the four files as published (gzip'd idx).

    Source: H. Xiao, K. Rasul, R. Vollgraf, arXiv 1708.07747; https://github.com/zalandoresearch/fashion-mnist.

    Raises:
        DataError: a file is missing, cut off, not idx, or the numbers of images and labels differ.
    """
    folder = open_folder("fashion-mnist", data_dir, _FASHION_FILES)
    parts, sizes = [], []
    for stem, limit in (("train", train_images), ("t10k", test_images)):
        images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz", dimensions=3)
        labels = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", dimensions=1)
        if images.shape[1:] != (28, 28):
            found = " x ".join(map(str, images.shape[1:]))
            raise DataError(
                f"{folder / stem}-images-idx3-ubyte.gz: expected 28 x 28 pixels, found {found}; {_OTHER_SET}"
            )
        if len(labels) and labels.max() >= len(_FASHION_CLASSES):
            raise DataError(
                f"{folder}, {stem} files: expected labels 0..9, found them up to {labels.max()}; {_OTHER_SET}"
            )
        parts.append(checked_pair(images[:, None], labels, f"{folder}, {stem} files", classes=10, limit=limit))
        sizes.append(len(labels))
    (train, train_labels), (test, test_labels) = parts
    return Dataset("fashion-mnist", train, train_labels, test, test_labels, _FASHION_CLASSES, (sizes[0], sizes[1]))


def load_cifar10(
    data_dir: str | Path | None, train_images: int | None = None, test_images: int | None = None
) -> Dataset:
    """CIFAR-10 from a folder of ``.npz`` files.

    Either ``cifar10_train_jpeg.npz`` and ``cifar10_test_a_jpeg.npz`` (arrays ``jpeg``: the JPEG files one after
    the other, ``offsets``, ``labels``, ``class_names``; needs Pillow), or ``cifar10_small_uint8.npz`` (arrays
    ``x_train``, ``y_train``, ``x_test``, ``y_test``, ``class_names``; images ``(n, 32, 32, 3)`` uint8). With
    both, the JPEG files win: they hold more images.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Raises:
        DataError: neither pair nor file is there, or a file is cut off or not as described.
    """
    folder = open_folder("cifar10", data_dir, _CIFAR_JPEG_FILES, or_else=_CIFAR_SMALL_FILE)
    jpeg_paths = [folder / name for name in _CIFAR_JPEG_FILES]
    if all(path.is_file() for path in jpeg_paths):
        (train, train_labels, names, many), (test, test_labels, _, tests) = (
            _read_jpeg_part(path, limit) for path, limit in zip(jpeg_paths, (train_images, test_images), strict=True)
        )
    else:
        path = folder / _CIFAR_SMALL_FILE
        arrays = read_npz(path, ("x_train", "y_train", "x_test", "y_test", "class_names"))
        names = _class_names(arrays["class_names"], path)
        train, train_labels = _pixel_part(arrays["x_train"], arrays["y_train"], path, len(names), train_images)
        test, test_labels = _pixel_part(arrays["x_test"], arrays["y_test"], path, len(names), test_images)
        many, tests = len(arrays["y_train"]), len(arrays["y_test"])
    return Dataset("cifar10", train, train_labels, test, test_labels, names, (many, tests))


def _read_jpeg_part(path: Path, limit: int | None) -> tuple[Images, Labels, tuple[str, ...], int]:
    arrays = read_npz(path, ("jpeg", "offsets", "labels", "class_names"))
    offsets, labels = arrays["offsets"], arrays["labels"]
    names = _class_names(arrays["class_names"], path)
    if len(offsets) != len(labels) + 1:
        raise DataError(f"{path}: expected {len(labels) + 1} offsets for {len(labels)} labels, found {len(offsets)}")
    kept = len(labels) if limit is None else min(limit, len(labels))
    images = decode_jpegs(arrays["jpeg"], offsets[: kept + 1], path)
    return *checked_pair(images, labels[:kept], str(path), classes=len(names), limit=kept), names, len(labels)


def _pixel_part(
    images: NDArray[Any], labels: NDArray[Any], path: Path, classes: int, limit: int | None
) -> tuple[Images, Labels]:
    if images.shape[1:] != (32, 32, 3) or images.dtype != np.uint8:
        raise DataError(f"{path}: expected images as uint8 (n, 32, 32, 3), found {images.dtype} {images.shape}")
    return checked_pair(images.transpose(0, 3, 1, 2), labels, str(path), classes=classes, limit=limit)


def _class_names(names: NDArray[Any], path: Path) -> tuple[str, ...]:
    if names.ndim != 1 or len(names) < 2:
        raise DataError(f"{path}: expected class_names as a list of names, found shape {names.shape}")
    return tuple(map(str, names.tolist()))


DATASETS: dict[str, Callable[[str | Path | None, int | None, int | None], Dataset]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "idx": load_idx,
    "npz": load_npz,
    "images": load_images,
}
"""Loaders by name; each takes the folder and the two limits."""
