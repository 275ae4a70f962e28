"""The state of a node as a value: plain data and arrays, from which an equal node can be built again.

A node is a graph of objects of this library and of plain containers. :func:`capture` walks it, :func:`restore` builds
it anew, with the same objects in the same places. Nothing is pickled: what is read are numbers, texts, arrays and names
of classes, and only classes of this library are looked up; none of their code runs but their memory is filled.

What belongs to a process and not to a state (the journal, the source of random bytes, a secret, settings) is
*external*: it is written as a name, and given again when the state is restored.

The form follows the classes, so it is that of one release: :func:`capture` notes which attributes each class had, and
:func:`restore` refuses a state of classes that have others.
"""

from __future__ import annotations

import collections
import enum
import functools
import sys
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_name
from rowcast.errors import ConfigError, LocalProtocolError, RowcastError, StateDamaged
from rowcast.rows import Layout
from rowcast.rows.outline import Outline

__all__ = ["State", "capture", "restore"]

#: What stands for itself. Everything else is a reference to an entry of the table of objects, ``[index]``; the name of
#: something external, ``[name]``; a member of an enumeration, ``[class, name]``; or a scalar of numpy,
#: ``[dtype, bytes, None]``.
_PLAIN = (bool, int, float, str, bytes, type(None))
_CONTAINERS: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    collections.deque: "deque",
    dict: "dict",
}
_PACKAGE = "rowcast."
_MOST = 1 << 63


class State(NamedTuple):
    """What was captured.

    Attributes:
        table: the objects, as bytes of msgpack.
        arrays: the arrays, by the names that the table has for them.
    """

    table: bytes
    arrays: dict[str, npt.NDArray[Any]]


def capture(root: object, externals: Mapping[str, object]) -> State:
    """The state of everything that can be reached from ``root``. Arrays are copied; nothing is changed.

    Args:
        root: the node, or a container with it.
        externals: what is written as a name, by that name.

    Raises:
        LocalProtocolError: an object that is neither of this library nor plain data.
    """
    return _Capture(externals).take(root)


def restore(state: State, externals: Mapping[str, object]) -> Any:
    """An equal of what was captured. Arrays of ``state`` are taken over, not copied.

    Args:
        state: what :func:`capture` gave.
        externals: what the names stand for now.

    Raises:
        StateDamaged: it is no state, of other classes than those here, or an array is missing.
    """
    try:
        return _Restore(state, externals).build()
    except StateDamaged:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, msgspec.MsgspecError, RowcastError) as error:
        raise StateDamaged(f"state: expected a table of objects, got one that cannot be read: {error!r}") from error


def _attributes(kind: type) -> list[str]:
    """The slots of a class, its bases' first."""
    names: list[str] = []
    for base in reversed(kind.__mro__):
        slots = base.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _name_of(kind: type | types.FunctionType) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _is_shared(codec: Codec) -> bool:
    """Whether a codec is the one that everybody gets by its name."""
    try:
        return codec_by_name(codec.name) is codec
    except ConfigError:
        return False


class _Capture:
    """One walk."""

    def __init__(self, externals: Mapping[str, object]) -> None:
        self._external = {id(value): name for name, value in externals.items() if value is not None}
        self._table: list[list[Any]] = []
        self._index: dict[int, int] = {}
        self._kept: list[object] = []  # keeps identities alive for the walk
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._owners: dict[int, str] = {}
        self._classes: dict[str, list[str]] = {}
        self._waiting: collections.deque[tuple[object, list[Any]]] = collections.deque()

    def take(self, root: object) -> State:
        whole = self._value(root)
        while self._waiting:  # a queue and not a recursion: what hangs together may hang together far
            found, entry = self._waiting.popleft()
            entry.extend(self._content(found))
        table = {"root": whole, "objects": self._table, "classes": self._classes}
        return State(msgspec.msgpack.encode(table), self._arrays)

    def _value(self, found: object) -> Any:
        name = self._external.get(id(found))
        if name is not None:
            return [name]
        kind = type(found)
        if kind in _PLAIN:
            if kind is int and not -_MOST <= found < _MOST:  # type: ignore[operator]
                raise LocalProtocolError(f"state: expected an integer of 64 bits, got {found}")
            return found
        if isinstance(found, enum.Enum):
            return [_name_of(kind), found.name]
        if isinstance(found, np.generic):
            return [found.dtype.str, found.tobytes(), None]
        index = self._index.get(id(found))
        if index is None:
            index = self._index[id(found)] = len(self._table)
            entry: list[Any] = []
            self._table.append(entry)
            self._kept.append(found)
            self._waiting.append((found, entry))
        return [index]

    def _content(self, found: Any) -> list[Any]:
        kind = type(found)
        if kind in _CONTAINERS:
            return self._container(found)
        if kind is np.ndarray:
            return self._array(found)
        if kind is bytearray:
            return ["bytearray", bytes(found)]
        if kind is types.MethodType:
            return ["method", self._value(found.__self__), found.__name__]
        if kind is functools.partial:
            return ["partial", *map(self._value, (found.func, found.args, found.keywords))]
        if isinstance(found, type | types.FunctionType):
            if not found.__module__.startswith(_PACKAGE) or "<" in found.__qualname__:
                raise self._foreign(found)
            return ["name", _name_of(found)]
        return self._object(found, kind)

    def _container(self, found: Any) -> list[Any]:
        kind = _CONTAINERS[type(found)]
        if kind == "dict":
            return [kind, [self._value(key) for key in found], [self._value(value) for value in found.values()]]
        content = [self._value(each) for each in found]
        return [kind, content, found.maxlen] if kind == "deque" else [kind, content]

    def _array(self, found: npt.NDArray[Any]) -> list[Any]:
        """A view names the array whose memory it is in, so that both share it again."""
        owner: Any = found
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if owner.base is not None or owner is found or owner.dtype.hasobject or not owner.flags.forc:
            # Its own memory, or that of something that is no array: then what is seen of it is its own from now on.
            return ["array", *self._keep(found), found.flags.writeable]
        offset = found.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        place = [found.dtype.str, list(found.shape), list(found.strides), offset]
        return ["view", self._value(owner), *place, found.flags.writeable]

    def _keep(self, found: npt.NDArray[Any]) -> list[Any]:
        if found.dtype.hasobject:
            raise self._foreign(found)
        fortran = found.flags.f_contiguous and not found.flags.c_contiguous
        kept = np.array(found.T if fortran else found, order="C", copy=True)
        name = f"a{len(self._arrays)}"
        self._arrays[name] = kept
        return [name, list(kept.shape), fortran]

    def _object(self, found: Any, kind: type) -> list[Any]:
        if kind is Layout and found.part_of is None:
            return ["layout", found.to_table()]
        if isinstance(found, Codec) and _is_shared(found):
            return ["codec", found.name]
        if not kind.__module__.startswith(_PACKAGE):
            raise self._foreign(found)
        if isinstance(found, bytes | str | int | float | list | dict | set):
            raise self._foreign(found)  # what it holds is in no attribute
        if isinstance(found, tuple):
            return ["named", _name_of(kind), [self._value(each) for each in found]]
        slots = _attributes(kind)
        names = [name for name in slots if hasattr(found, name)] + list(getattr(found, "__dict__", ()))
        self._classes.setdefault(_name_of(kind), slots)
        values = [self._value(getattr(found, name)) for name in names]
        return ["object", _name_of(kind), names, values]

    def _foreign(self, found: object) -> LocalProtocolError:
        return LocalProtocolError(
            f"state: expected objects of this library and plain data, got {type(found).__module__}."
            f"{type(found).__qualname__}; name it as external"
        )


class _Restore:
    """One state, being built."""

    def __init__(self, state: State, externals: Mapping[str, object]) -> None:
        table = msgspec.msgpack.decode(state.table)
        self._root, self._table = table["root"], table["objects"]
        self._classes: dict[str, list[str]] = table["classes"]
        self._arrays = state.arrays
        self._externals = externals
        self._built: dict[int, Any] = {}
        self._filling: collections.deque[tuple[Any, list[Any]]] = collections.deque()

    def build(self) -> Any:
        for name, slots in self._classes.items():
            if slots != _attributes(self._class(name)):
                raise StateDamaged(
                    f"state: expected the attributes of {name} as they are here, got those of another release"
                )
        root = self._value(self._root)
        while self._filling:
            shell, entry = self._filling.popleft()
            self._fill(shell, entry)
        return root

    def _value(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if len(value) == 3:
            return np.frombuffer(value[1], dtype=np.dtype(value[0]))[0]
        if len(value) == 2:
            return self._class(value[0])[value[1]]
        (key,) = value
        if isinstance(key, str):
            return self._externals[key]
        if key not in self._built:
            self._built[key] = self._make(self._table[key])
        return self._built[key]

    def _make(self, entry: list[Any]) -> Any:
        """An object; what can be changed is empty still, and filled later: so circles come out right."""
        kind = entry[0]
        make = getattr(self, f"_make_{kind}", None)
        if make is not None:
            return make(*entry[1:])
        if kind == "object":
            made: type = self._class(entry[1])
            if issubclass(made, msgspec.Struct):
                return self._struct(made, entry)
            shell = made.__new__(made)
        else:
            shell = {"list": list, "set": set, "dict": dict}[kind]()
        self._filling.append((shell, entry))
        return shell

    def _fill(self, shell: Any, entry: list[Any]) -> None:
        kind = entry[0]
        if kind == "object":
            for name, value in zip(entry[2], entry[3], strict=True):
                object.__setattr__(shell, name, self._value(value))
        elif kind == "dict":
            shell.update(zip(map(self._whole, entry[1]), map(self._value, entry[2]), strict=True))
        elif kind == "set":
            shell.update(map(self._whole, entry[1]))
        else:
            shell.extend(map(self._value, entry[1]))

    def _whole(self, value: Any) -> Any:
        """A key: it may be asked for its hash, so what it is made of must be there."""
        found = self._value(value)
        if isinstance(value, list):
            for place, (shell, entry) in enumerate(self._filling):
                if shell is found:
                    del self._filling[place]
                    self._fill(shell, entry)
                    break
        return found

    def _make_deque(self, content: list[Any], maxlen: int | None) -> collections.deque[Any]:
        made: collections.deque[Any] = collections.deque(maxlen=maxlen)
        self._filling.append((made, ["deque", content]))
        return made

    def _make_tuple(self, content: list[Any]) -> tuple[Any, ...]:
        return tuple(map(self._value, content))

    def _make_named(self, name: str, content: list[Any]) -> Any:
        return tuple.__new__(self._class(name), map(self._value, content))

    def _make_frozenset(self, content: list[Any]) -> frozenset[Any]:
        return frozenset(map(self._whole, content))

    def _make_bytearray(self, content: bytes) -> bytearray:
        return bytearray(content)

    def _make_method(self, of: Any, name: str) -> Any:
        return types.MethodType(getattr(type(self._value(of)), name), self._value(of))

    def _make_partial(self, function: Any, args: Any, keywords: Any) -> Any:
        # The keywords are a dict that is filled later, and a partial copies it: they are read here.
        names, values = self._table[keywords[0]][1:]
        return functools.partial(
            self._value(function), *self._value(args), **dict(zip(names, map(self._value, values), strict=True))
        )

    def _make_name(self, name: str) -> Any:
        return self._class(name)

    def _make_layout(self, table: bytes) -> Layout:
        return Layout.from_outline(Outline.read(table))

    def _make_codec(self, name: str) -> Codec:
        return codec_by_name(name)

    def _make_array(self, name: str, shape: list[int], fortran: bool, writeable: bool) -> Any:
        found = self._arrays[name]
        if list(found.shape) != shape:
            raise StateDamaged(f"state: expected array {name} of shape {shape}, got {list(found.shape)}")
        made = found.T if fortran else found
        if not writeable:
            made.flags.writeable = False
        return made

    def _make_view(self, of: Any, dtype: str, shape: list[int], strides: list[int], offset: int, writes: bool) -> Any:
        owner = self._value(of)
        base = owner.T if owner.flags.f_contiguous and not owner.flags.c_contiguous else owner
        memory = base.reshape(-1).view(np.uint8)
        made: npt.NDArray[Any] = np.ndarray(tuple(shape), np.dtype(dtype), memory, offset, tuple(strides))
        made.flags.writeable = writes and made.flags.writeable
        return made

    def _struct(self, made: type[msgspec.Struct], entry: list[Any]) -> Any:
        fields = dict(zip(entry[2], map(self._value, entry[3]), strict=True))
        own = {name: fields.pop(name) for name in made.__struct_fields__}
        shell = made(**own)
        if fields:
            vars(shell).update(fields)
        return shell

    @staticmethod
    def _class(name: str) -> Any:
        module, _, path = name.partition(":")
        if not module.startswith(_PACKAGE):
            raise StateDamaged(f"state: expected classes of this library, got {name}")
        # What a server is made of is loaded with it; nothing is imported because a file says so.
        found: Any = sys.modules.get(module)
        if found is None:
            raise StateDamaged(f"state: expected classes that a server is made of, got {name}")
        for part in path.split("."):
            found = getattr(found, part)
        return found
