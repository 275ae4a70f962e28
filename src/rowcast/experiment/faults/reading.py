"""A fault script from its file: what is wrong in it is said in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rowcast.config import read_file
from rowcast.errors import ConfigError, near_match
from rowcast.experiment.faults.script import (
    PLAYERS,
    SERVER,
    Certificate,
    Cut,
    DiskFull,
    EventTable,
    FaultScript,
    Hostile,
    Kill,
    Named,
    PowerLoss,
    TeamTable,
)
from rowcast.journal import EVENTS
from rowcast.sync import parse_policy

__all__ = ["load_script"]


def load_script(path: str | Path) -> FaultScript:
    """Read a script.

    Raises:
        ConfigError: it cannot be read, or something in it is not known or makes no sense; the message is one line.
    """
    path = Path(path)
    content = read_file(path)
    try:
        script = msgspec.convert({**content, "name": path.stem}, FaultScript)
    except msgspec.ValidationError as error:
        raise ConfigError(f"fault script {path}: {_hinted(str(error), content)}") from error
    for complaint in _complaints(script):
        raise ConfigError(f"fault script {path}: {complaint}")
    return script


def _hinted(text: str, content: Mapping[str, Any]) -> str:
    """What msgspec says, with the nearest name that is known where one is not."""
    kinds = {kind.__struct_config__.tag: kind for kind in EventTable.__args__}
    place = text.rpartition("`$")[2].partition("`")[0] if "`$" in text else ""
    if found := re.match(r"Object contains unknown field `([^`]*)`", text):
        return f"unknown key {found[1]!r} in {_place(place)}; {near_match(found[1], _known(place, content, kinds))}"
    if found := re.match(r"Invalid value '([^']*)'", text):
        return f"unknown event {found[1]!r} in {_place(place)}; {near_match(found[1], kinds)}"
    return f"{text[0].lower()}{text[1:]}"


def _place(place: str) -> str:
    return place.lstrip(".").removesuffix(".do") or "the script itself"


def _known(place: str, content: Mapping[str, Any], kinds: Mapping[Any, type[Any]]) -> list[str]:
    """The keys that may stand at a place such as ``.event[0]``."""
    table: type[Any] = FaultScript
    if place.startswith(".event"):
        index = int(place[place.index("[") + 1 : place.index("]")])
        table = kinds[content["event"][index]["do"]]
    elif place.startswith(".team"):
        table = TeamTable
    elif place.startswith(".journal"):
        table = Named
    own = {"name", "scale"} if table is FaultScript else set()
    return [field for field in table.__struct_fields__ if field not in own] + ["do"] * place.startswith(".event")


def _complaints(script: FaultScript) -> Iterator[str]:
    team = script.team
    if not 1 <= team.workers <= 16 or not team.steps >= 1 or not team.rate_mbps > 0:
        yield "team: expected 1 .. 16 workers, 1 step or more and a rate above 0"
    if isinstance(team.pace_s, tuple) and len(team.pace_s) != team.workers:
        yield f"team: expected one pace_s, or one for each of {team.workers} workers, got {len(team.pace_s)}"
    policy = parse_policy(team.policy)
    if policy.row_codec.name != "raw":
        yield f"team: expected a policy whose sums are exact, got {team.policy!r}; add codec=raw"
    if set(script.on) != set(PLAYERS) and not script.because:
        yield f"because: expected why it is played on {', '.join(script.on)} only, got nothing"
    if not script.event:
        yield "event: expected at least one, got none"
    known = (SERVER, *team.names)
    for named in (*script.gone, *(record.node for record in script.journal)):
        if named not in known:
            yield f"there is no {named!r}; {near_match(named, known)}"
    for record in script.journal:
        if record.event not in EVENTS:
            yield f"journal: there is no event {record.event!r}; {near_match(record.event, EVENTS)}"
    for number, event in enumerate(script.event):
        for complaint in _complaints_of(event, script, known):
            yield f"event {number} ({event.name}): {complaint}"


def _complaints_of(event: EventTable, script: FaultScript, known: tuple[str, ...]) -> Iterator[str]:
    yield from _wrong_names(event, script, known)
    if (event.at_s is None) == (event.phase is None):
        yield "expected either at_s, or phase with 'of' and 'iteration'"
    if event.phase is not None and event.of in (None, SERVER):
        yield f"expected 'of', whose phase it is, as {known[-1]!r}, got {event.of!r}"
    if event.lasts_s < 0 or (event.at_s or 0.0) < 0:
        yield "expected times of 0 s or more"
    yield from _missing_in_team(event, script.team)


def _wrong_names(event: EventTable, script: FaultScript, known: tuple[str, ...]) -> Iterator[str]:
    if not event.to:
        yield f"expected whom it happens to, as to = [{known[-1]!r}], got nobody"
    for name in (*event.to, *([] if event.of is None else [event.of])):
        if name not in known:
            yield f"there is no {name!r}; {near_match(name, known)}"
    for name in event.to:
        kind = SERVER if name == SERVER else "robot"
        if kind not in event.TO:
            yield f"it cannot happen to {name!r}"
        elif kind not in event.VIRTUAL and "virtual" in script.on:
            yield f"to {name!r} it means nothing in virtual time; expected on = ['sockets'], and 'because' with why"


def _missing_in_team(event: EventTable, team: TeamTable) -> Iterator[str]:
    """What the team must have for an event to make sense."""
    if isinstance(event, Kill | DiskFull) and SERVER in event.to and team.durability != "log":
        yield "what only the server has would be lost with it; expected durability = 'log' in [team]"
    if isinstance(event, PowerLoss | DiskFull) and set(event.to) - {SERVER} and not team.keeps:
        yield "expected keeps = true in [team], for robots that keep a state"
    secured = team.security == "certificates"
    if isinstance(event, Certificate) and not secured:
        yield "expected security = 'certificates' in [team]"
    if secured and (isinstance(event, Hostile) or (isinstance(event, Cut) and event.mid_frame)):
        yield "inside TLS there are no frames to be seen; expected security = 'none' in [team]"
