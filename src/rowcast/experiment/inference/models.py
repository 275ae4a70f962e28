"""Models that a user names: ``MODEL.py:build``, and inputs for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rowcast.errors import ConfigError, visible
from rowcast.split import Captured
from rowcast.userfile import failure_in, load_file, resolve

__all__ = ["UserModel", "find_model", "inputs_in", "random_inputs"]

_FORMS = "MODEL.py:build or my_package.my_module:build, a function that returns a torch.nn.Module in evaluation"
_SHAPE = re.compile(r"(\d+(?:x\d+)*)(?::(\w+))?")
_DTYPES = {str(kind).removeprefix("torch."): kind for kind in (torch.uint8, torch.float32, torch.float16, torch.int64)}
_IMAGES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class UserModel:
    """A model that a text stands for.

    Attributes:
        name: what another process finds it by; a file with its whole path.
        net: the module.
        example: the arguments of its ``forward``.
    """

    name: str
    net: torch.nn.Module
    example: tuple[Any, ...]


def find_model(text: str, example: str | None = None) -> UserModel:
    """The model that a text stands for.

    Args:
        text: ``MODEL.py:build`` (``MODEL.py`` alone has ``build``) or ``package.module:build``; the function returns a
            module, or a module and the arguments of its ``forward``.
        example: a shape, as ``1x480x640x3:uint8`` (float32 without a type; several with commas between), or another
            function of the file that gives the arguments; ``None``: what ``build`` gives.

    Raises:
        ConfigError: there is none, it raises an error, or there is no example.
    """
    what = f"model {text}"
    place, colon, function = text.rpartition(":")
    if not colon:
        place, function = text, "build"
    if place.endswith(".py"):
        path = Path(place)
        module: Any = load_file(path, what, f"a Python file with a function {function}")[0]
        name, where = f"{path.resolve()}:{function}", path.resolve()
        found = getattr(module, function, None)
        if found is None:
            raise ConfigError(f"{what}: {path} has no {function!r}; expected {_FORMS}")
    else:
        if not colon:
            raise ConfigError(f"{what}: expected {_FORMS}")
        found = resolve(place, function, what, _FORMS)
        module = resolve(place, "__dict__", what, _FORMS)
        name, where = text, Path(str(module.get("__file__", "")))
    net, arguments = _built(_called(found, what, where), what)
    if example is not None:
        arguments = _example(example, found, what, where)
    if arguments is None:
        raise ConfigError(
            f"{what}: expected what forward is called with: give --example, such as 1x480x640x3:uint8, or return "
            "(module, example)"
        )
    return UserModel(name, net, arguments)


def _called(function: object, what: str, path: Path) -> Any:
    if not callable(function):
        raise ConfigError(f"{what}: expected a function, got {type(function).__name__}")
    try:
        return function()
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's code does
        raise ConfigError(f"{what}: {failure_in(error, path)}") from error


def _built(made: Any, what: str) -> tuple[torch.nn.Module, tuple[Any, ...] | None]:
    """The module, and the arguments that came with it."""
    arguments = None
    if isinstance(made, tuple) and len(made) == 2:
        made, arguments = made
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    if not isinstance(made, torch.nn.Module):
        raise ConfigError(
            f"{what}: expected a torch.nn.Module, or one with its example, from this function, got "
            f"{visible(type(made).__name__)}"
        )
    return made, arguments


def _example(text: str, build: Any, what: str, path: Path) -> tuple[Any, ...]:
    shapes = [_SHAPE.fullmatch(part) for part in text.split(",")]
    if all(shapes):
        return tuple(_tensor(found[1], found[2] or "float32") for found in shapes if found is not None)
    function = getattr(build, "__globals__", {}).get(text)
    if function is None:
        raise ConfigError(
            f"--example: expected a shape, such as 1x480x640x3:uint8, or a function of {path.name}, got {text!r}"
        )
    made = _called(function, what, path)
    return made if isinstance(made, tuple) else (made,)


def _tensor(sizes: str, dtype: str) -> torch.Tensor:
    if dtype not in _DTYPES:
        raise ConfigError(f"--example: expected a type of {', '.join(_DTYPES)}, got {dtype!r}")
    return _random(tuple(map(int, sizes.split("x"))), _DTYPES[dtype], torch.Generator().manual_seed(0))


def _random(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    # Small numbers are valid tokens.
    return torch.randint(0, 256 if dtype is torch.uint8 else 2, shape, generator=generator).to(dtype)


def random_inputs(model: Captured, count: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """So many different inputs of a model, for batch 1, each as its ``forward`` takes them."""
    generator = torch.Generator().manual_seed(seed)

    def one() -> tuple[Any, ...]:
        return model.arguments([_random(each.shape, each.dtype, generator).to(each.device) for each in model.inputs])

    return [one() for _ in range(count)]


def inputs_in(folder: Path, model: Captured, most: int) -> list[tuple[Any, ...]]:
    """The inputs in the files of a folder, in the order of their names, each as ``forward`` takes them.

    Args:
        folder: ``.npy`` files of a model with one input, without or with the axis of the batch; ``.npz`` files with an
            array for each input, by its name; images, where Pillow is installed.
        model: whose inputs they are.
        most: so many are read.

    Raises:
        ConfigError: there are none, one cannot be read, or is not what the model was captured with.
    """
    readers: dict[str, Callable[[Path], list[Any]]] = {".npy": _arrays, ".npz": _archived(model)}
    readers.update(dict.fromkeys(_IMAGES, _picture))
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in readers)[:most]
    except OSError as error:
        raise ConfigError(f"--images {folder}: cannot be read: {error.strerror}") from error
    if not files:
        raise ConfigError(f"--images {folder}: expected files that end in {', '.join(readers)}, found none")
    return [_checked(path, readers[path.suffix.lower()](path), model) for path in files]


def _checked(path: Path, arrays: list[Any], model: Captured) -> tuple[Any, ...]:
    if len(arrays) != len(model.inputs):
        names = ", ".join(each.name for each in model.inputs)
        raise ConfigError(f"{path}: expected {len(model.inputs)} inputs ({names}), in a .npz file with their names")
    tensors = []
    for array, kind in zip(arrays, model.inputs, strict=True):
        try:
            tensor = torch.from_numpy(np.array(array))
            tensor = (tensor[None] if tensor.ndim == len(kind.shape) - 1 else tensor).to(kind.device)
            kind.check(tensor)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        tensors.append(tensor)
    return model.arguments(tensors)


def _arrays(path: Path) -> list[Any]:
    try:
        return [np.load(path, allow_pickle=False)]
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _archived(model: Captured) -> Callable[[Path], list[Any]]:
    def read(path: Path) -> list[Any]:
        try:
            with np.load(path, allow_pickle=False) as held:
                return [held[each.name] for each in model.inputs]
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error

    return read


def _picture(path: Path) -> list[Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(f"{path}: images need Pillow, which is not installed; save them as .npy") from error
    try:
        with Image.open(path) as image:
            return [np.asarray(image.convert("RGB"))]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
