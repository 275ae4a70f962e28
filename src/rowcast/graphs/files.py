"""A graph and its profile as a JSON file: what ``planning`` needs of a model, without the model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.errors import ConfigError, near_match, visible
from rowcast.graphs.graph import Graph, Op
from rowcast.graphs.profile import SINGLE, Profile
from rowcast.graphs.rules import RULES, RowRule

__all__ = ["load_profile", "save_profile"]

FORMAT = "rowcast profile 1"


def save_profile(path: Path, graph: Graph, profile: Profile) -> None:
    """Write both to a file, one operator a line.

    Raises:
        ConfigError: the profile is that of another graph.
    """
    profile.check(graph)
    head = {
        "format": FORMAT,
        "digest": graph.digest.hex(),
        "outputs": list(graph.outputs),
        **{name: getattr(profile, name) for name in SINGLE},
    }
    times = zip(graph.ops, profile.robot_s.tolist(), profile.server_s.tolist(), strict=True)
    ops = [json.dumps({**_op_table(op), "robot_s": robot_s, "server_s": server_s}) for op, robot_s, server_s in times]
    text = json.dumps(head, indent=1).removesuffix("\n}") + ',\n "ops": [\n  ' + ",\n  ".join(ops) + "\n ]\n}\n"
    path.write_text(text, encoding="utf-8")


def load_profile(path: Path) -> tuple[Graph, Profile]:
    """Read what :func:`save_profile` wrote.

    Raises:
        ConfigError: there is no such file, or it is none of these; the message names the file and what is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a profile: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f'{path}: expected a file with "format": {FORMAT!r}; was it written by save_profile?')
    try:
        ops = content["ops"]
        graph = Graph(map(_op_of, ops), content["outputs"])
        robot_s, server_s = (np.array([op[name] for op in ops], dtype=np.float64) for name in ("robot_s", "server_s"))
        profile = Profile(robot_s, server_s, **{name: content[name] for name in SINGLE})
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path}: {visible(what)}") from error
    if graph.digest.hex() != content.get("digest"):
        raise ConfigError(f"{path}: its operators were changed since it was written; measure the model again")
    return graph, profile


def _op_table(op: Op) -> dict[str, Any]:
    rule = {"rule": op.rule.name, **_changed(op.rule)}
    return {**_changed(op), "inputs": list(op.inputs), "bytes": op.bytes, "rule": rule}


def _changed(item: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    return {
        field.name: value for field in dataclasses.fields(item) if (value := getattr(item, field.name)) != field.default
    }


def _op_of(table: dict[str, Any]) -> Op:
    given = {key: value for key, value in table.items() if key not in ("robot_s", "server_s")}
    return Op(**{**given, "inputs": tuple(given["inputs"]), "rule": _rule_of(given["rule"])})


def _rule_of(table: dict[str, Any]) -> RowRule:
    given = dict(table)
    name = given.pop("rule")
    if name not in RULES:
        raise ConfigError(f"unknown row rule {name!r}: {near_match(str(name), RULES)}")
    return RULES[name](**given)
