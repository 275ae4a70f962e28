"""Messages as they were before they became bytes: JSON, and those of ROS by ``rosbags``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rowcast.errors import DataError, visible
from rowcast.libraries import needing

__all__ = ["Decode", "decoder_of", "ros_decoder"]

#: Makes of the bytes of a message what they say: dicts, lists and numbers of JSON, or an object of ROS with attributes.
Decode = Callable[[bytes], Any]


def decoder_of(topic: str, encoding: str, schema: tuple[str, str, bytes]) -> Decode:
    """What decodes the messages of a channel of an MCAP file.

    Args:
        topic: for messages.
        encoding: of its messages.
        schema: name, encoding and content.

    Raises:
        ConfigError: a library is not installed.
        DataError: an encoding that cannot be read, or a definition that is none.
    """
    name, kind, content = schema
    if encoding == "json":
        return json.loads
    if encoding in ("cdr", "ros1") and kind in ("ros2msg", "ros2idl", "ros1msg"):
        return ros_decoder(topic, name, content.decode(errors="replace"), idl=kind == "ros2idl", ros1=kind == "ros1msg")
    raise DataError(
        f"topic {visible(topic)}: messages in {visible(encoding or 'no encoding')!r} with a schema in "
        f"{visible(kind or 'no encoding')!r} cannot be read; those in json, and in cdr or ros1 of ROS, can be"
    )


def ros_decoder(topic: str, name: str, definition: str, *, idl: bool, ros1: bool = False) -> Decode:
    """What decodes messages of ROS.

    Args:
        topic: for messages.
        name: of the type, as ``std_msgs/msg/Float64``.
        definition: of it and all that it is made of; empty: it is one of those that ROS itself brings.
        idl: the definition is in IDL.
        ros1: the messages are those of ROS 1.

    Raises:
        ConfigError: the library is not installed.
        DataError: the definition is none.
    """
    with needing("a topic of ROS", "mcap"):
        from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
    store = get_typestore(Stores.EMPTY if definition else Stores.LATEST)
    try:
        if definition and idl:
            types = {}
            for text in _files_of(definition):
                types.update(get_types_from_idl(text))
            store.register(types)
        elif definition:
            store.register(get_types_from_msg(definition, name))
    except TypesysError as error:
        raise DataError(
            f"topic {visible(topic)}: the definition of {visible(name)} is none: {visible(str(error))}"
        ) from error
    full = name if "/msg/" in name else name.replace("/", "/msg/", 1)
    if full not in store.fielddefs:
        raise DataError(f"topic {visible(topic)}: the type {visible(name)} is not known, and the file does not say it")
    read = store.deserialize_ros1 if ros1 else store.deserialize_cdr
    return lambda data: read(data, full)


def _files_of(definition: str) -> list[str]:
    """The files that a definition in IDL is made of."""
    divider = "=" * 80 + "\n"
    if not definition.startswith(f"{divider}IDL: "):
        return [definition]
    return [part.partition("\n")[2] for part in definition.split(divider)[1:]]
