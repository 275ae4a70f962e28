"""Where the names of namespaces lie, and the records of who made them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["PRIVATE", "names_folder", "records_folder"]

#: Set inside a user namespace of ours (see ``rights``): a folder that only the processes in there see.
PRIVATE = "ROWCAST_EMULATE_FOLDER"


def names_folder() -> Path:
    """Where a namespace has its name: where ``ip netns`` looks, or inside a user namespace of ours a private folder."""
    private = os.environ.get(PRIVATE)
    return Path(private, "names") if private else Path("/run/netns")


def records_folder() -> Path:
    """Where :mod:`~rowcast.drivers.netns.records` lie."""
    private = os.environ.get(PRIVATE)
    return Path(private, "records") if private else Path("/run/rowcast")
