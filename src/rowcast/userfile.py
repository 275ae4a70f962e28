"""Python files of users: a task, or a function that builds a model."""

from __future__ import annotations

import hashlib
import importlib.util
import pkgutil
import sys
import traceback
from pathlib import Path
from types import ModuleType

from rowcast.errors import ConfigError, visible

__all__ = ["failure_in", "load_file", "resolve"]


def load_file(path: Path, what: str, expected: str) -> tuple[ModuleType, str]:
    """A file as a module, which is executed once for each content; modules beside it can be imported.

    Args:
        path: its name ends in ``.py``.
        what: who wants it, for messages: ``"task my_file.py:MyTask"``.
        expected: what it is to hold, for the message where it cannot be read.

    Returns:
        The module, and a digest of the file, as hexadecimal digits.

    Raises:
        ConfigError: it cannot be read, or it raises an error; file and line are named.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what}: {path}: cannot be read: {error.strerror}; expected {expected}") from error
    whole, code = path.resolve(), hashlib.sha256(source).hexdigest()[:16]
    name = f"rowcast_user_{hashlib.sha256(f'{whole} {code}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name], code
    spec = importlib.util.spec_from_file_location(name, whole)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    if str(whole.parent) not in sys.path:
        sys.path.append(str(whole.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise ConfigError(f"{what}: {failure_in(error, whole)}") from error
        raise
    return module, code


def failure_in(error: BaseException, path: Path) -> str:
    """What went wrong in which line of a file, for who wrote it."""
    if isinstance(error, SyntaxError):
        return f"{path}, line {error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else f"{path}"
    return f"{where}: {type(error).__name__}: {visible(str(error))}"


def resolve(module: str, name: str, what: str, expected: str) -> object:
    """What an importable module has by a name.

    Args:
        what, expected: as for :func:`load_file`.

    Raises:
        ConfigError: no name of a module, one that cannot be imported, or that has no such name.
    """
    try:
        found: object = pkgutil.resolve_name(f"{module}:{name}")
    except ValueError:
        raise ConfigError(f"{what}: expected {expected}") from None
    except AttributeError as error:
        raise ConfigError(f"{what}: the module {module} has no {name!r}") from error
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        raise ConfigError(
            f"{what}: the module {module} cannot be imported: {type(error).__name__}: {visible(str(error))}; "
            "for a file, write its path with .py"
        ) from error
    return found
