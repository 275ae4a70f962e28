"""Data sets of one's own: idx files, an npz archive, or a folder of images, whatever they show.

How many classes and channels there are is read from the data. Nothing that is read here is unpickled or executed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowcast.errors import DataError
from rowcast.tasks._files import checked_pair, read_idx, read_npz
from rowcast.tasks.cruda.dataset import Dataset

__all__ = ["IMAGE_SIZE", "OWN_SETS", "load_idx", "load_images", "load_npz"]

#: Loaders of this module, as the task's data set names them.
OWN_SETS = ("idx", "npz", "images")
#: Images of a folder are resized to so many pixels a side.
IMAGE_SIZE = 32
#: More classes than any set of images has.
MOST_CLASSES = 65_536
#: Of images that are not parted, one in so many is for tests.
_TEST_PART = 5
_SPLIT_SEED = 1797
_IDX_IMAGES = re.compile(r"(?P<head>.*)images(?P<join>[-.])idx3(?P<tail>[-.]ubyte(?:\.gz)?)", re.IGNORECASE)
_NPZ_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp", ".gif", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "GIF", "TIFF")
_PARTS = (("train",), ("test", "val", "valid", "validation"))
_GREY = ("1", "L")


def load_idx(data_dir: str | Path | None, train_images: int | None = None, test_images: int | None = None) -> Dataset:
    """Any set in the format of MNIST: four idx files, gzip'd or not, for training and for tests ('test' or 't10k').

    Raises:
        DataError: a pair of files is missing or there are several, or one is not idx.
    """
    folder = _folder("idx", data_dir, "idx files as train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz")
    found: list[list[tuple[Path, Path]]] = [[], []]
    for path in sorted(folder.iterdir()):
        match = _IDX_IMAGES.fullmatch(path.name)
        if match is None:
            continue
        place = 0 if "train" in match["head"].lower() else 1 if re.search("test|t10k", match["head"].lower()) else None
        labels = f"{match['head']}labels{match['join']}idx1{match['tail']}"
        there = [folder / name for name in (labels, labels.removesuffix(".gz"), f"{labels}.gz")]
        named = next((each for each in there if each.is_file()), None)
        if named is None:
            raise DataError(f"idx: {folder} lacks {labels}, the labels of {path.name}; put the file there")
        if place is not None:
            found[place].append((path, named))
    for part, what in zip(found, ("train", "test or t10k"), strict=True):
        if len(part) != 1:
            shown = ", ".join(path.name for path, _ in part) or "none"
            raise DataError(
                f"idx: {folder}: expected one file of images with {what} in its name, as *-images-idx3-ubyte.gz, found "
                f"{shown}; put each set in a folder of its own"
            )
    parts = [(read_idx(images, 3)[:, None], read_idx(labels, 1)) for ((images, labels),) in found]
    return _dataset("idx", folder, parts, None, (train_images, test_images))


def load_npz(data_dir: str | Path | None, train_images: int | None = None, test_images: int | None = None) -> Dataset:
    """An archive with x_train, y_train, x_test, y_test, or train_images, train_labels, test_images, test_labels.

    Images are uint8, ``(n, height, width)`` or ``(n, height, width, channels)``; labels whole numbers from 0, and
    ``class_names`` may name them.

    Raises:
        DataError: no such archive, several of them, or arrays of other shapes.
    """
    wanted = "an .npz archive with x_train, y_train, x_test, y_test"
    if data_dir is not None and Path(data_dir).is_file():
        path = Path(data_dir)
    else:
        folder = _folder("npz", data_dir, wanted)
        archives = sorted(folder.glob("*.npz"))
        if len(archives) != 1:
            shown = ", ".join(each.name for each in archives) or "none"
            raise DataError(f"npz: {folder}: expected {wanted}, found {shown}; name the file itself as the data")
        path = archives[0]
    try:
        arrays = read_npz(path, _NPZ_NAMES[0])
        keys = _NPZ_NAMES[0]
    except DataError:
        arrays, keys = read_npz(path, _NPZ_NAMES[1]), _NPZ_NAMES[1]
    names: tuple[str, ...] | None = None
    try:
        listed = read_npz(path, ("class_names",))["class_names"]
        names = tuple(map(str, listed.tolist())) if listed.ndim == 1 else None
    except DataError:
        pass
    parts = [
        (_channels_first(arrays[images], f"{path}, {images}"), _flat(arrays[labels]))
        for images, labels in (keys[:2], keys[2:])
    ]
    return _dataset("npz", path, parts, names, (train_images, test_images))


def load_images(
    data_dir: str | Path | None,
    train_images: int | None = None,
    test_images: int | None = None,
    *,
    size: int = IMAGE_SIZE,
) -> Dataset:
    """A folder of images, with a sub-folder for each class; resized. Needs Pillow.

    With sub-folders ``train`` and ``test`` (or ``val``) each of these has the classes; else every fifth image, drawn
    the same way for every seed, is for tests. Images are grey where the first one of each class is, and else RGB.

    Raises:
        DataError: no classes, a class without images, or an image that cannot be read.
    """
    folder = _folder("images", data_dir, "a sub-folder of images for each class")
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{folder}: needs Pillow, which is not installed; pip install 'rowcast[demo]'") from error
    train_at, test_at = (next((folder / name for name in names if (folder / name).is_dir()), None) for names in _PARTS)
    parted = train_at is not None and test_at is not None
    train_files = _classes(train_at if parted and train_at is not None else folder)
    names = tuple(train_files)
    rng = np.random.default_rng(_SPLIT_SEED)
    if parted and test_at is not None:
        test_files = _classes(test_at)
        unknown = sorted(set(test_files) - set(names))
        if unknown:
            raise DataError(f"{test_at}: expected classes that {train_at} has, found {', '.join(unknown)}")
        train = _mixed([(path, names.index(name)) for name in names for path in train_files[name]], rng)
        test = _mixed([(path, names.index(name)) for name, paths in test_files.items() for path in paths], rng)
    else:
        every = _mixed([(path, names.index(name)) for name in names for path in train_files[name]], rng)
        test, train = every[::_TEST_PART], [each for k, each in enumerate(every) if k % _TEST_PART]
    if not train or not test:
        raise DataError(f"{folder}: expected {_TEST_PART} images or more, found {len(train) + len(test)}")

    def opened(path: Path, mode: str | None) -> Any:
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if mode is None:
                    return image.mode
                return np.asarray(image.convert(mode).resize((size, size), Image.Resampling.BILINEAR))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: expected an image, found none that can be read ({error}); replace it") from error

    grey = all(opened(paths[0], None) in _GREY for paths in train_files.values())
    parts = []
    for files, limit in ((train, train_images), (test, test_images)):
        kept = files[:limit]
        pixels = np.stack([opened(path, "L" if grey else "RGB") for path, _ in kept])
        images = pixels[:, None] if grey else pixels.transpose(0, 3, 1, 2)
        parts.append((np.ascontiguousarray(images), np.array([label for _, label in kept], dtype=np.int64)))
    (a, b), (c, d) = parts
    return Dataset("images", a, b, c, d, names, (len(train), len(test)))


def _dataset(
    kind: str,
    source: Path,
    parts: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    names: tuple[str, ...] | None,
    limits: tuple[int | None, int | None],
) -> Dataset:
    """Images and labels for training and for tests, so many of each; classes are counted before that."""
    (train, train_labels), (test, test_labels) = parts
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{kind}: {source}: expected test images of {train.shape[1:]}, as for training, got {test.shape[1:]}"
        )
    _check_labels(train_labels, f"{source}, training")
    _check_labels(test_labels, f"{source}, tests")
    classes = max([int(labels.max()) for labels in (train_labels, test_labels) if len(labels)], default=0) + 1
    if names is None or len(names) < classes:
        names = tuple(str(label) for label in range(max(classes, 2)))
    sizes = len(train_labels), len(test_labels)
    a, b = checked_pair(train, train_labels, f"{source}, training", classes=len(names), limit=limits[0])
    c, d = checked_pair(test, test_labels, f"{source}, tests", classes=len(names), limit=limits[1])
    return Dataset(kind, a, b, c, d, names, sizes)


def _check_labels(labels: NDArray[Any], where: str) -> None:
    """Before anything is made for each class: one label may ask for all of the memory.

    Raises:
        DataError: labels that are no whole numbers, or would be of too many classes.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where}: expected labels as whole numbers, (n,), found {labels.dtype} {labels.shape}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
        raise DataError(
            f"{where}: expected labels 0 .. {MOST_CLASSES - 1}, found {labels.min()} .. {labels.max()}; number the "
            "classes from 0 on"
        )


def _channels_first(images: NDArray[Any], where: str) -> NDArray[Any]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        raise DataError(
            f"{where}: expected images as uint8 (0 to 255), (n, height, width) or (n, height, width, channels), found "
            f"{images.dtype} {images.shape}"
        )
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _flat(labels: NDArray[Any]) -> NDArray[Any]:
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _folder(kind: str, data_dir: str | Path | None, wanted: str) -> Path:
    if data_dir is None:
        raise DataError(f"{kind}: no data folder given; name the folder that holds {wanted}")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"{kind}: {folder} is not a folder; expected a folder that holds {wanted}")
    return folder


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each sub-folder, both in the order of their names."""
    found = {
        place.name: sorted(path for path in place.iterdir() if path.suffix.lower() in _SUFFIXES)
        for place in sorted(folder.iterdir())
        if place.is_dir() and not place.name.startswith(".")
    }
    empty = [name for name, paths in found.items() if not paths]
    if len(found) < 2 or empty:
        what = f"no images in {', '.join(empty)}" if empty else f"{len(found)} sub-folders"
        raise DataError(
            f"{folder}: expected a sub-folder of images ({', '.join(_SUFFIXES)}) for each of two classes or more, "
            f"found {what}"
        )
    return found


def _mixed(files: list[tuple[Path, int]], rng: np.random.Generator) -> list[tuple[Path, int]]:
    return [files[index] for index in rng.permutation(len(files))]
