"""Loaders: tiny files written here, every fault, and the real folders where they exist."""

from __future__ import annotations

import gzip
import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from rowcast.errors import ConfigError, DataError
from rowcast.tasks.cruda import load_dataset

REAL = Path(__file__).parents[2] / "shared" / "data"
RNG = np.random.default_rng(7)


def idx_bytes(array: np.ndarray, magic: int | None = None) -> bytes:
    numbers = (2048 + array.ndim if magic is None else magic, *array.shape)
    return struct.pack(f">{len(numbers)}I", *numbers) + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    for stem, count in (("train", 6), ("t10k", 4)):
        images = np.arange(count * 784).reshape(count, 28, 28) % 251
        for name, array in (("images-idx3", images), ("labels-idx1", np.arange(count))):
            (tmp_path / f"{stem}-{name}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path


def jpeg(value: int, side: int = 32) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def write_jpeg_npz(path: Path, images: list[bytes], **changes: object) -> None:
    arrays: dict[str, object] = {
        "jpeg": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.cumsum([0, *map(len, images)]),
        "labels": np.arange(len(images), dtype=np.uint8),
        "class_names": np.array([f"class {i}" for i in range(10)]),
    }
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]


def write_small_npz(path: Path, **changes: object) -> None:
    arrays: dict[str, object] = {
        "x_train": RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8),
        "y_train": np.arange(5, dtype=np.uint8),
        "x_test": RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8),
        "y_test": np.arange(3, dtype=np.uint8),
        "class_names": np.array([f"class {i}" for i in range(10)]),
    }
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]


def test_digits() -> None:
    data = load_dataset("digits")
    assert data.train_images.shape == (1297, 1, 8, 8) and data.test_images.shape == (500, 1, 8, 8)
    assert data.train_images.dtype == np.uint8 and data.train_images.max() == 255
    assert data.shape == (1, 8, 8) and len(data.classes) == 10
    assert np.bincount(data.test_labels).min() > 35
    few = load_dataset("digits", train_images=20, test_images=10)
    np.testing.assert_array_equal(few.train_images, data.train_images[:20])
    assert len(few.train_labels) == 20 and len(few.test_labels) == len(few.test_images) == 10


def test_digits_are_those_of_scikit_learn() -> None:
    """All of them, in an order that is the same for every seed."""
    theirs, numbers = load_digits(return_X_y=True)
    order = np.random.default_rng(1797).permutation(len(theirs))
    pixels = np.rint(theirs[order] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    data = load_dataset("digits")
    np.testing.assert_array_equal(np.concatenate((data.test_images, data.train_images)), pixels)
    np.testing.assert_array_equal(np.concatenate((data.test_labels, data.train_labels)), numbers[order])
    assert data.train_labels.dtype == data.test_labels.dtype == np.int64


def test_digits_are_read_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A robot has no other need of it."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert len(load_dataset("digits").train_images) == 1297


def test_an_unknown_data_set_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="unknown data set 'digit'; did you mean 'digits'"):
        load_dataset("digit")


def test_fashion_mnist(fashion: Path) -> None:
    data = load_dataset("fashion-mnist", fashion, test_images=2)
    assert data.train_images.shape == (6, 1, 28, 28) and data.test_images.shape == (2, 1, 28, 28)
    assert data.train_images[0, 0, 0, 5] == 5 and data.train_labels.tolist() == list(range(6))
    assert data.train_labels.dtype == np.int64 and data.classes[9] == "Ankle boot"


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_a_missing_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{name}: no data folder given; name the folder that holds "):
        load_dataset(name)
    with pytest.raises(DataError, match=f"{name}: .*nowhere is not a folder; expected a folder that holds "):
        load_dataset(name, tmp_path / "nowhere")
    with pytest.raises(DataError, match="found nothing"):
        load_dataset(name, tmp_path)


def test_missing_files_are_listed(fashion: Path) -> None:
    (fashion / "t10k-labels-idx1-ubyte.gz").unlink()
    (fashion / "train-images-idx3-ubyte.gz").unlink()
    expected = r"lacks train-images-idx3-ubyte\.gz, t10k-labels-idx1-ubyte\.gz; found t10k-images.*; put"
    with pytest.raises(DataError, match=expected):
        load_dataset("fashion-mnist", fashion)


LABELS = idx_bytes(np.arange(6))


def packed(data: bytes) -> bytes:
    """Compressed without the time of day: it is part of the tests' names, and those must not change."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "expected a whole gzip file"),
        (packed(LABELS)[:-9], "cut off or damaged"),
        (packed(LABELS[:5]), "header of 8 bytes, found 5"),
        (packed(idx_bytes(np.arange(6), magic=2051)), r"expected idx magic number 2049 .* found 2051"),
        (packed(LABELS[:-1]), "expected 6 = 6 bytes after the header, found 5"),
        (packed(LABELS + b"x"), "expected 6 = 6 bytes after the header, found more"),
        (packed(idx_bytes(np.arange(5))), "as many images as labels, found 6 and 5"),
        (packed(idx_bytes(np.arange(6) + 5)), "expected labels 0..9, found .* up to 10"),
    ],
)
def test_a_bad_idx_file_is_one_clear_line(fashion: Path, content: bytes, message: str) -> None:
    (fashion / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("fashion-mnist", fashion)
    assert "train" in str(caught.value) and "\n" not in str(caught.value)


def test_images_of_another_size_and_empty_sets_are_refused(fashion: Path) -> None:
    path = fashion / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((6, 8, 8)))))
    with pytest.raises(DataError, match=r"expected 28 x 28 pixels, found 8 x 8"):
        load_dataset("fashion-mnist", fashion)
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((0, 28, 28)))))
    (fashion / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(0))))
    with pytest.raises(DataError, match="expected images, found none"):
        load_dataset("fashion-mnist", fashion)


def test_cifar10_from_jpeg_files(tmp_path: Path) -> None:
    write_jpeg_npz(tmp_path / "cifar10_train_jpeg.npz", [jpeg(v) for v in (10, 90, 200)])
    write_jpeg_npz(tmp_path / "cifar10_test_a_jpeg.npz", [jpeg(v) for v in (50, 60)])
    write_small_npz(tmp_path / "cifar10_small_uint8.npz")
    data = load_dataset("cifar10", tmp_path, train_images=2)
    assert data.train_images.shape == (2, 3, 32, 32) and data.test_images.shape == (2, 3, 32, 32)
    assert np.abs(data.train_images[1].astype(int) - 90).max() <= 2
    assert data.train_labels.tolist() == [0, 1] and data.classes[3] == "class 3"


def test_cifar10_from_pixels(tmp_path: Path) -> None:
    write_small_npz(tmp_path / "cifar10_small_uint8.npz")
    with np.load(tmp_path / "cifar10_small_uint8.npz", allow_pickle=False) as archive:
        pixels = archive["x_train"]
    data = load_dataset("cifar10", tmp_path)
    assert data.train_images.shape == (5, 3, 32, 32) and len(data.test_images) == 3
    assert data.train_images[2, 1, 4, 9] == pixels[2, 4, 9, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((5, 3, 32, 32), np.uint8)}, r"expected images as uint8 \(n, 32, 32, 3\), found"),
        ({"x_test": np.zeros((3, 32, 32, 3), np.float32)}, "found float32"),
        ({"y_train": np.zeros(4, np.uint8)}, "as many images as labels, found 5 and 4"),
        ({"y_test": np.array([0, 1, 10])}, "expected labels 0..9, found int64 up to 10"),
        ({"class_names": np.array("one")}, "expected class_names"),
        ({"class_names": np.array([{}, {}], dtype=object)}, "expected a whole .npz archive of plain arrays"),
    ],
)
def test_a_bad_pixel_file_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_small_npz(tmp_path / "cifar10_small_uint8.npz", **changes)
    with pytest.raises(DataError, match=message):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": np.array([0, 5])}, "expected 4 offsets for 3 labels, found 2"),
        ({"offsets": np.array([0, 5, 5, 9])}, "growing offsets"),
        ({"offsets": np.array([0, 5, 10, 10**6])}, "expected 1000000 bytes of JPEG"),
        ({"offsets": np.array([0.0, 5, 10, 15])}, "growing offsets"),
        ({"jpeg": np.zeros(10**5, np.uint8)}, "image 0 is no readable JPEG"),
        ({"labels": np.array([0, 1, 30])}, "expected labels 0..9"),
    ],
)
def test_a_bad_jpeg_file_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_jpeg_npz(tmp_path / "cifar10_test_a_jpeg.npz", [jpeg(1)])
    write_jpeg_npz(tmp_path / "cifar10_train_jpeg.npz", [jpeg(v) for v in (10, 90, 200)], **changes)
    with pytest.raises(DataError, match=message):
        load_dataset("cifar10", tmp_path)


def test_a_jpeg_of_another_size_is_refused(tmp_path: Path) -> None:
    write_jpeg_npz(tmp_path / "cifar10_test_a_jpeg.npz", [jpeg(1)])
    write_jpeg_npz(tmp_path / "cifar10_train_jpeg.npz", [jpeg(1), jpeg(2, side=16)])
    with pytest.raises(DataError, match="expected images of 32 x 32 pixels, image 1 is 16 x 16"):
        load_dataset("cifar10", tmp_path)


def test_archives_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar10_small_uint8.npz"
    write_small_npz(path)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2], b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"expected a whole \.npz archive"):
            load_dataset("cifar10", tmp_path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="found a single array"):
        load_dataset("cifar10", tmp_path)
    np.savez(path, x_train=np.zeros(1))
    with pytest.raises(DataError, match="lacks y_train, x_test, y_test, class_names"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.skipif(not (REAL / "fashion_mnist").is_dir(), reason=f"no Fashion-MNIST in {REAL / 'fashion_mnist'}")
def test_the_real_fashion_mnist() -> None:
    data = load_dataset("fashion-mnist", REAL / "fashion_mnist")
    assert data.train_images.shape == (60_000, 1, 28, 28) and data.test_images.shape == (10_000, 1, 28, 28)
    assert np.bincount(data.train_labels).tolist() == [6000] * 10
    assert data.train_images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)


@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason=f"no CIFAR-10 in {REAL / 'cifar10'}")
def test_the_real_cifar10(tmp_path: Path) -> None:
    data = load_dataset("cifar10", REAL / "cifar10", train_images=500, test_images=500)
    assert data.train_images.shape == (500, 3, 32, 32) and data.classes[6] == "frog"
    means = data.train_images.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(means, [0.4913, 0.4821, 0.4465], atol=0.03)
    (tmp_path / "cifar10_small_uint8.npz").symlink_to(REAL / "cifar10" / "cifar10_small_uint8.npz")
    small = load_dataset("cifar10", tmp_path)
    assert small.train_images.shape == (10_000, 3, 32, 32) and np.bincount(small.test_labels).tolist() == [200] * 10
