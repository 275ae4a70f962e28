"""Data sets of one's own (idx, npz, a folder of images), and what may be set of a task."""

from __future__ import annotations

import gzip
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rowcast.errors import ConfigError, DataError
from rowcast.experiment import Cell, Comparison, plan_cells
from rowcast.tasks import build_task
from rowcast.tasks.cruda import CrudaOptions, load_dataset
from rowcast.tasks.cruda.own import load_npz
from rowcast.tasks.options import read_options, written_options

REAL = Path(__file__).parents[2] / "shared" / "data"
SMALL = Comparison(task="cruda", policies=("bsp",), links=("outdoor",), workers=(2,), seeds=1)
FASHION = [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9]


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def idx_set(
    folder: Path, classes: int = 43, side: int = 28, train: int = 90, names: str = "{}-{}-idx{}-ubyte.gz"
) -> Path:
    """A set in the format of MNIST, under its names."""
    folder.mkdir(exist_ok=True)
    for part, count in (("train", train), ("t10k", 50)):
        labels = np.arange(count) % classes
        images = np.random.default_rng(count).integers(0, 256, (count, side, side))
        write_idx(folder / names.format(part, "images", 3), images)
        write_idx(folder / names.format(part, "labels", 1), labels)
    return folder


def npz_set(path: Path, classes: int = 3, shape: tuple[int, ...] = (12, 12, 3), **changes: Any) -> Path:
    draw = np.random.default_rng(1)
    arrays = {
        "x_train": draw.integers(0, 256, (90, *shape), dtype=np.uint8),
        "y_train": np.arange(90) % classes,
        "x_test": draw.integers(0, 256, (12, *shape), dtype=np.uint8),
        "y_test": np.arange(12) % classes,
    }
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return path


def image_folder(folder: Path, mode: str = "RGB", parts: tuple[str, ...] = ("",), each: int = 20) -> Path:
    """Classes 'cat' and 'dog' of images of different sizes."""
    for part in parts:
        for label, name in enumerate(("cat", "dog")):
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(each):
                colour = 40 * label + number if mode == "L" else (40 * label + number, 0, 200)
                image = Image.new(mode, (9 + number, 14), colour)  # type: ignore[arg-type]
                image.save(place / f"{number:02d}.{'png' if number % 2 else 'jpg'}")
            (place / "notes.txt").write_text("not an image")
    return folder


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", ["{}-{}-idx{}-ubyte.gz", "{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte", "emnist-letters-{}-{}-idx{}-ubyte.gz"]
)
def test_any_idx_set(tmp_path: Path, names: str) -> None:
    data = load_dataset("idx", idx_set(tmp_path, names=names), train_images=5, test_images=2)
    assert (data.name, data.shape, data.classes) == ("idx", (1, 28, 28), tuple(map(str, range(43))))
    assert len(data.train_labels) == 5 and data.trainable == 90 and data.test_labels.tolist() == [0, 1]


def test_any_npz_set(tmp_path: Path) -> None:
    path = npz_set(tmp_path / "mine.npz")
    for place in (tmp_path, path):  # the folder that holds it, or the file
        data = load_dataset("npz", place, test_images=4)
        assert (data.shape, data.classes, data.trainable) == ((3, 12, 12), ("0", "1", "2"), 90)
    np.savez(
        tmp_path / "mine.npz",
        train_images=np.zeros((4, 8, 8), np.uint8),
        train_labels=np.array([[0], [1], [0], [1]]),
        test_images=np.zeros((2, 8, 8), np.uint8),
        test_labels=np.array([[0], [1]]),
        class_names=np.array(["fish", "fowl"]),
    )
    data = load_dataset("npz", path)
    assert (data.shape, data.classes, data.train_labels.tolist()) == ((1, 8, 8), ("fish", "fowl"), [0, 1, 0, 1])


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_of_images(tmp_path: Path, mode: str) -> None:
    data = load_dataset("images", image_folder(tmp_path, mode))
    assert data.classes == ("cat", "dog") and data.shape == (3 if mode == "RGB" else 1, 32, 32)
    assert (len(data.train_labels), len(data.test_labels), data.available) == (32, 8, (32, 8))
    assert set(data.train_labels) == set(data.test_labels) == {0, 1}
    # The label goes with the image: dogs are brighter.
    means = data.train_images[:, 0].mean(axis=(1, 2))
    assert means[data.train_labels == 1].min() > means[data.train_labels == 0].max()
    few = load_dataset("images", tmp_path, train_images=3, image_size=16)
    assert few.shape[1:] == (16, 16) and few.train_labels.tolist() == data.train_labels[:3].tolist()


def test_a_folder_of_images_that_is_parted(tmp_path: Path) -> None:
    image_folder(tmp_path, parts=("train", "val"), each=3)
    data = load_dataset("images", tmp_path)
    assert data.available == (6, 6) and data.classes == ("cat", "dog")
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "wolf")
    with pytest.raises(DataError, match=r"expected classes that .*train has, found wolf"):
        load_dataset("images", tmp_path)


@pytest.mark.parametrize(
    ("kind", "make", "says"),
    [
        ("idx", lambda at: None, "expected one file of images with train in its name, .* found none"),
        ("idx", lambda at: (idx_set(at) / "train-labels-idx1-ubyte.gz").unlink(), "lacks train-labels-idx1-ubyte.gz"),
        ("idx", lambda at: (idx_set(at), idx_set(at, names="b-{}-{}-idx{}-ubyte")), "found b-train-images"),
        ("npz", lambda at: None, "found none; name the file itself"),
        ("npz", lambda at: (npz_set(at / "a.npz"), npz_set(at / "b.npz")), "found a.npz, b.npz; name the file"),
        ("npz", lambda at: npz_set(at / "a.npz", x_train=np.zeros((9, 4, 4))), "x_train: expected images as uint8"),
        ("npz", lambda at: npz_set(at / "a.npz", shape=(4, 4, 7)), "x_train: expected images as uint8"),
        ("npz", lambda at: npz_set(at / "a.npz", y_train=None), "lacks train_images"),
        ("npz", lambda at: npz_set(at / "a.npz", y_train=np.arange(90) - 1), "expected labels 0"),
        (
            "npz",
            lambda at: npz_set(at / "a.npz", y_train=np.zeros(90)),
            "expected labels as whole numbers",
        ),
        ("npz", lambda at: npz_set(at / "a.npz", x_test=np.zeros((12, 9, 9), np.uint8)), "expected test images of"),
        ("images", lambda at: None, "for each of two classes or more, found 0 sub-folders"),
        ("images", lambda at: (at / "cat").mkdir(), "found no images in cat"),
        ("images", lambda at: (image_folder(at) / "cat" / "00.jpg").write_bytes(b"x"), "00.jpg: expected an image"),
    ],
)
def test_what_is_wrong_with_a_set_is_one_clear_line(tmp_path: Path, kind: str, make: Any, says: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=says):
        load_dataset(kind, tmp_path)


@pytest.mark.parametrize("kind", ["idx", "npz", "images"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=f"{kind}: no data folder given; name the folder that holds "):
        load_dataset(kind)
    with pytest.raises(DataError, match=f"{kind}: .*nowhere is not a folder; expected "):
        load_dataset(kind, tmp_path / "nowhere")


def test_only_a_folder_of_images_has_a_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image_size: goes with a folder of images"):
        load_dataset("digits", image_size=32)
    with pytest.raises(ConfigError, match="image_size: goes with task 'cruda-images'"):
        build_task("cruda-digits", image_size=32)


# -- the task ----------------------------------------------------------------------------------------------------------


def test_the_model_has_the_classes_and_channels_of_the_data(tmp_path: Path) -> None:
    task = build_task("cruda-idx", idx_set(tmp_path), pretrain_epochs=0, batch=4, widths=(8, 8, 8))
    assert (task.settings.model.classes, task.settings.model.in_channels, task.settings.model.stem_stride) == (43, 1, 2)
    task.pretrain()
    robot = task.worker(1, 2)
    assert robot.model(robot.images[:2]).shape == (2, 43)
    assert robot.compute() > 0 and 0 <= robot.accuracy() <= 100


def test_small_and_large_images_get_another_stride(tmp_path: Path) -> None:
    strides = {}
    for side in (8, 28, 96):
        place = idx_set(tmp_path / str(side), classes=3, side=side, train=8)
        strides[side] = build_task("cruda-idx", place).settings.model.stem_stride
        assert build_task("cruda-idx", place, stem_stride=1).settings.model.stem_stride == 1
    assert strides == {8: 1, 28: 2, 96: 4}


def test_a_published_set_with_more_classes_is_fitted_too(tmp_path: Path) -> None:
    """A CIFAR-10 archive with 43 class names was accepted, and failed after the start."""
    images = np.zeros((90, 32, 32, 3), np.uint8)
    np.savez(
        tmp_path / "cifar10_small_uint8.npz",
        x_train=images,
        y_train=np.arange(90) % 43,
        x_test=images,
        y_test=np.arange(90) % 43,
        class_names=np.array([f"sign {k}" for k in range(43)]),
    )
    assert build_task("cruda-cifar10", tmp_path).settings.model.classes == 43
    with pytest.raises(ConfigError, match="has 3 channels and 43 classes, but the model is made for"):
        build_task("cruda-cifar10", tmp_path, model=build_task("cruda-digits").settings.model)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_optimizer_is_a_setting(name: str) -> None:
    task = build_task("cruda-digits", optimizer=name, lr=0.02, weight_decay=0.1, pretrain_epochs=0, widths=(16, 16, 16))
    task.pretrain()
    optimizer = task.worker(0, 4).optimizer
    assert type(optimizer) is {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.1)
    assert task.settings.model.widths == (16, 16, 16)


def test_options_have_one_way_to_be_written() -> None:
    given = read_options(CrudaOptions, ["widths=[16, 32,64]", "lr=1", "optimizer=adamw", "alpha=1e3"])
    assert given == {"optimizer": "adamw", "lr": 1.0, "alpha": 1000.0, "widths": (16, 32, 64)}
    texts = written_options(given)
    assert texts == ("alpha=1000.0", "lr=1.0", 'optimizer="adamw"', "widths=[16, 32, 64]")
    again = read_options(CrudaOptions, texts)
    assert again == given and written_options(again) == texts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lrr=0.1", "unknown setting 'lrr'; did you mean 'lr'"),
        ("lr=fast", "CrudaOptions.lr: expected a number in 0.0 .. 10.0, got 'fast'"),
        ("alpha=0", "alpha: expected a number in 0.01"),
        ("optimizer=adamx", "unknown optimizer 'adamx'; did you mean 'adam"),
        ("tokens=7", "ConvMLPConfig.tokens: expected an even number"),
        ("depths=[1]", "ConvMLPConfig.depths: expected 3 depths"),
        ("batch=700", "1297 images for training are too few for 2 robots with a batch of 700"),
        ("train_images=50", "50 images for training are too few for 2 robots with a batch of 32"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_before_anything_runs(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        plan_cells(replace(SMALL, task="cruda-digits", task_options=(text,)))


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "task"),
    [
        (idx_set, "cruda-idx"),
        (lambda at: (at.mkdir(), npz_set(at / "a.npz")), "cruda-npz"),
        (image_folder, "cruda-images"),
    ],
)
def test_the_data_decide_which_task_it_is(tmp_path: Path, make: Any, task: str) -> None:
    """MNIST has the names and the format of Fashion-MNIST; it is told by its labels."""
    place = tmp_path / "set"
    assert make(place) is not None
    (cell,) = plan_cells(replace(SMALL, data=str(place), batch=(8,)))
    assert (cell.task, cell.data) == (task, str(place))
    named = plan_cells(replace(SMALL, task=task, data=str(place), batch=(8,)))
    assert named == [cell]


def test_fashion_mnist_is_told_by_its_labels(tmp_path: Path) -> None:
    idx_set(tmp_path, classes=10)
    settings = replace(SMALL, data=str(tmp_path), batch=(8,))
    assert plan_cells(settings)[0].task == "cruda-idx"
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array((FASHION * 8)[:90]))
    assert plan_cells(settings)[0].task == "cruda-fashion-mnist"


def test_what_is_not_fashion_mnist_names_the_task_for_it(tmp_path: Path) -> None:
    for change in ({"classes": 43}, {"classes": 10, "side": 20}):
        idx_set(tmp_path, **change)
        with pytest.raises(DataError, match="task cruda-idx"):
            plan_cells(replace(SMALL, task="cruda-fashion-mnist", data=str(tmp_path)))


@pytest.mark.skipif(not (REAL / "fashion_mnist").exists(), reason="the shared data sets are not here")
def test_the_real_fashion_mnist_is_recognised() -> None:
    assert plan_cells(replace(SMALL, data=str(REAL / "fashion_mnist")))[0].task == "cruda-fashion-mnist"


def test_options_are_part_of_a_run() -> None:
    plain, other = (
        plan_cells(replace(SMALL, task="cruda-digits", task_options=texts))[0] for texts in ((), ("lr=1", "alpha=9"))
    )
    assert plain.task_options == "" and other.task_options == "alpha=9.0; lr=1.0"
    assert plain.name == other.name and plain != other
    assert other.options() == {"alpha": 9.0, "lr": 1.0, "test_images": 500}
    assert replace(other, batch=4).options()["batch"] == 4
    assert isinstance(other, Cell)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array(["cat", "dog", "cat", "dog"]), r"labels as whole numbers, \(n,\), found <U3 \(4,\)"),
        (np.array([0.0, 1.0, 0.0, 1.0]), "found float64"),
        (np.array([True, False, True, False]), "found bool"),
        (np.int64(3), r"found int64 \(\)"),
        (np.zeros((4, 2, 2), dtype=np.int64), r"found int64 \(4, 2, 2\)"),
        (np.array([0, -1, 0, 1]), r"labels 0 \.\. 65535, found -1 \.\. 1"),
        (np.array([0, 1, 0, 1 << 40]), r"found 0 \.\. 1099511627776; number the classes"),
        (np.array([0, 1, 0, (1 << 64) - 1], dtype=np.uint64), "number the classes"),
    ],
    ids=str,
)
@pytest.mark.parametrize("part", ["training", "tests"])
def test_labels_that_are_no_classes_are_refused_before_any_is_made(
    tmp_path: Path, labels: Any, says: str, part: str
) -> None:
    images, good = np.zeros((4, 8, 8), dtype=np.uint8), np.array([0, 1, 0, 1])
    arrays = {"y_train": good, "y_test": good, "y_train" if part == "training" else "y_test": labels}
    np.savez(tmp_path / "own.npz", x_train=images, x_test=images, **arrays)
    with pytest.raises(DataError, match=f"{part}: expected .*{says}"):
        load_npz(tmp_path)
