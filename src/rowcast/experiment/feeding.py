"""What a comparison says of streams: which rates, batches, buffers and injections go together, in their shortest words.

A run whose batches are of a rule has a :class:`Feeding`; one that takes the batches of its task has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.errors import ConfigError, DataError
from rowcast.streams import (
    BatchRule,
    BufferRule,
    FixedBatch,
    StreamPattern,
    TeamBatch,
    parse_batch,
    parse_buffer,
    parse_injection,
    parse_streams,
    read_rates,
)

if TYPE_CHECKING:
    from rowcast.experiment.settings import Comparison

__all__ = ["Feeding", "find_streams", "plan_feeding", "usual_buffer"]

SUFFIX = ".csv"
#: Samples of one robot for which the learning rate of a task is meant, where a comparison names no batch.
_USUAL = 64


@dataclass(frozen=True)
class Feeding:
    """Where the batches of a run are from.

    Attributes:
        rates: of the streams, as :func:`find_streams` takes it; '' where there are always as many samples as wanted.
        batch: as :func:`rowcast.streams.parse_batch` takes it.
        buffer: as :func:`rowcast.streams.parse_buffer` takes it; '' without a stream.
        inject: as :func:`rowcast.streams.parse_injection` takes it; '' for none.
    """

    rates: str
    batch: str
    buffer: str = ""
    inject: str = ""


def find_streams(text: str) -> StreamPattern:
    """The pattern of a text; its own text is the shortest that says the same, a recording's its whole path.

    Raises:
        ConfigError: the text has none of the forms, or a rate is out of its range.
        DataError: a recording cannot be read, or breaks its format.
    """
    if not text.strip().lower().endswith(SUFFIX):
        pattern = parse_streams(text)
        if pattern.name:
            short = pattern.name if pattern.every_s is None else f"{pattern.name}~{pattern.every_s:.12g}"
        else:
            short = "/".join(f"{trace.rate_at(0.0):.12g}" for trace in pattern.traces)
        return replace(pattern, text=short)
    path = Path(text.strip()).resolve()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    return read_rates(str(path), lines)


def usual_buffer(rule: BatchRule) -> BufferRule:
    """What is kept where nothing is said, as in ScaDLES: all with a fixed batch, otherwise what a second brings."""
    return BufferRule() if isinstance(rule, FixedBatch) else BufferRule(seconds=1.0)


def plan_feeding(settings: Comparison, workers: int) -> list[tuple[int | None, Feeding | None]]:
    """The batches of a comparison for a team of so many, in order: a number of items, or of a rule, or the task's.

    Raises:
        ConfigError: values that do not go together, or of which two are the same.
        DataError: a recording of rates that cannot be read.
    """
    patterns = [find_streams(text) for text in settings.streams]
    for pattern in patterns:
        pattern.check_team(workers)
    rates = _each_once("streams", [pattern.text for pattern in patterns], settings.streams)
    rules = [batch if isinstance(batch, int) else parse_batch(batch) for batch in settings.batch]
    _each_once("batch", map(str, rules), settings.batch)
    if rates and not rules:
        rules = [TeamBatch(_USUAL * workers)]
    for rule in rules:
        _check_rule(rule, bool(rates))
    ruled = any(isinstance(rule, BatchRule) for rule in rules)
    if settings.buffer and not rates:
        raise ConfigError("buffer: without streams nothing waits; add streams, as in --streams S1, or leave it away")
    if settings.inject and not ruled:
        raise ConfigError(
            "inject: expected batches of a rule, whose samples can be given away; add --batch fixed:64, or streams"
        )
    if not rules:
        return [(None, None)]
    return list(_combined(settings, rates or [""], rules))


def _combined(
    settings: Comparison, rates: Sequence[str], rules: Sequence[int | BatchRule]
) -> Iterator[tuple[int | None, Feeding | None]]:
    kept = _each_once("buffer", (str(parse_buffer(text)) for text in settings.buffer), settings.buffer)
    given = [parse_injection(text) for text in settings.inject]
    shared = _each_once("inject", ("" if one is None else str(one) for one in given), settings.inject) or [""]
    for rate, rule in itertools.product(rates, rules):
        if isinstance(rule, int):
            yield rule, None
            continue
        buffers = (kept or [str(usual_buffer(rule))]) if rate else [""]
        for buffer, inject in itertools.product(buffers, shared):
            yield None, Feeding(rate, str(rule), buffer, inject)


def _check_rule(rule: int | BatchRule, streams: bool) -> None:
    """Raises ConfigError for a batch that does not go with streams, or without."""
    if isinstance(rule, int):
        if streams:
            raise ConfigError(f"batch {rule}: expected a rule with streams, as fixed:{rule} or team:1024")
    elif not streams and not (isinstance(rule, FixedBatch) or rule.shares_by == "speed"):
        raise ConfigError(
            f"batch {rule}: goes by what streams bring; add streams, as in --streams S1, or take fixed:64 or speed:1024"
        )


def _each_once(name: str, short: Iterable[str], given: Sequence[object]) -> list[str]:
    """Texts in their shortest words.

    Raises:
        ConfigError: two are the same.
    """
    found: dict[str, object] = {}
    for text, said in zip(short, given, strict=True):
        if text in found:
            raise ConfigError(f"{name}: {found[text]} and {said} are the same")
        found[text] = said
    return list(found)
