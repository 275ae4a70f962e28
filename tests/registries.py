"""Registries as they were before a test."""

from __future__ import annotations

import pytest

import rowcast.codecs
import rowcast.codecs.tensors
import rowcast.energy
import rowcast.sources
import rowcast.sync
import rowcast.tasks
from rowcast.training import rules

REGISTRIES = (
    rowcast.codecs.REGISTRY,
    rowcast.energy.REGISTRY,
    rowcast.sync.REGISTRY,
    rowcast.sources.REGISTRY,
    rowcast.tasks.TASKS,
    rowcast.codecs.tensors.REGISTRY,
)


def forget_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered from here on is forgotten at the end of the test."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_plugins", None)
        monkeypatch.setattr(registry, "_broken", {})
    for table in ("_BY_ID", "_TIMING_ONLY", "_FINE"):
        monkeypatch.setattr(rowcast.codecs, table, dict(getattr(rowcast.codecs, table)))
    monkeypatch.setattr(rowcast.codecs.tensors, "_BY_ID", dict(rowcast.codecs.tensors._BY_ID))
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
