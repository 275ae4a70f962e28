"""Settings that are passed through to the client library of a broker: in the text of a source, or in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rowcast.errors import DataError, visible
from rowcast.sources.text import SourceText

__all__ = ["passed_options", "read_properties", "without_secrets"]

#: In front of the name of a setting of the client.
PREFIX = "option."
#: Parts of the names of settings whose values are not shown.
SECRET = ("password", "secret", "token", "key", "pem", "sasl.oauthbearer", "sasl.jaas")


def passed_options(text: SourceText, known: Iterable[str]) -> dict[str, str]:
    """The settings for the client: lines of the file ``options=FILE``, and ``option.NAME=VALUE``, which counts first.

    Args:
        text: the source.
        known: the options of the source itself.

    Raises:
        ConfigError: an option that nobody knows; a file that cannot be read.
    """
    passed = [name for name in text.options if name.startswith(PREFIX)]
    text.without(passed).check(known)
    found = read_properties(Path(text.one("options"))) if text.one("options") else {}
    found.update({name.removeprefix(PREFIX): text.one(name) for name in passed})
    return found


def read_properties(path: Path) -> dict[str, str]:
    """Settings from a file with lines of ``name=value``, ``#`` in front of a remark.

    Raises:
        DataError: it cannot be read, or a line is something else; the message has its number, not its text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: settings of the client cannot be read: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.partition("=")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals or not name.strip():
            raise DataError(f"{path}: line {number}: expected name=value")
        found[name.strip()] = value.strip()
    return found


def without_secrets(text: str, options: Mapping[str, str]) -> str:
    """A message of the client, without the values that are nobody's business."""
    for name, value in options.items():
        if value and any(part in name for part in SECRET):
            text = text.replace(value, "...")
    return visible(text)
