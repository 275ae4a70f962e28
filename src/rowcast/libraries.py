"""Libraries that only some parts need, each behind an extra of the package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rowcast.errors import ConfigError

__all__ = ["needing"]


@contextlib.contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """Around the import of what an extra of ours installs::

        with needing("a source of kafka://", "kafka"):
            import confluent_kafka

    Args:
        what: that needs it, for the message.
        extra: of our package.

    Raises:
        ConfigError: a module within is not installed, or cannot be loaded; the message has the command.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{what} needs a library ({error}); install it: pip install 'rowcast[{extra}]'") from error
