"""The options of a command, made from settings classes, and what several commands have besides."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from rowcast.config import load_tables
from rowcast.config.fields import alternatives, complaint, entry_of, hints_of, item_types
from rowcast.config.reading import from_text
from rowcast.errors import ConfigError

__all__ = ["PanelCommand", "TaskCommand", "limit_threads", "options_from"]

#: A settings class; or what finds it when the command runs, from the settings of the other classes by table. That is
#: for classes that take long to load, or depend on what was given; they have no options of their own.
Kind = type | Callable[[Mapping[str, Any]], type]


@dataclass(frozen=True)
class _Flag:
    """One option, and the field that it sets.

    Attributes:
        table: of the settings file, and the command's parameter.
        path: names from the settings class of that table to the field.
        field, hint: the field and its type.
        panel: heading in the help.
    """

    table: str
    path: tuple[str, ...]
    field: dataclasses.Field[Any]
    hint: Any
    panel: str

    @property
    def flag(self) -> str:
        return str(self.field.metadata["flag"])

    @property
    def parameter(self) -> str:
        """Name of the option in the command's call."""
        return "_".join((self.table, *self.path))

    def read(self, given: object) -> Any:
        """The value that was given.

        Raises:
            ConfigError: it is of the wrong type, or out of its range.
        """
        value = from_text(self.hint, given) if isinstance(given, str) else given
        wrong = complaint(self.field, self.hint, value)
        if wrong is not None:
            same = self.flag[2:].replace("-", "_") == self.field.name
            raise ConfigError(f"{self.flag if same else f'{self.flag}, setting {self.field.name}'}: {wrong}")
        return value

    def option(self) -> inspect.Parameter:
        """The option as typer wants it."""
        flag, kind = (f"{self.flag}/--no-{self.flag[2:]}", bool) if self.hint is bool else (self.flag, str)
        option = typer.Option(
            flag, help=self._help(), metavar=self._metavar(), show_default=False, rich_help_panel=self.panel
        )
        return _parameter(self.parameter, Annotated[kind | None, option])

    def _help(self) -> str:
        entry = entry_of(self.field)
        facts = [f"{entry['range']} {entry['unit']}".strip() if entry["range"] else entry["unit"]]
        if entry["default"] not in ("none", "required", "false", ""):
            facts.append(f"default {entry['default']}")
        shown = "; ".join(filter(None, facts))
        return f"{entry['doc']} [{shown}]" if shown else entry["doc"]

    def _metavar(self) -> str | None:
        if self.hint is bool:
            return None
        if self.field.metadata["metavar"]:
            return str(self.field.metadata["metavar"])
        kinds = item_types(self.hint) or alternatives(self.hint)
        word = next((word for kind, word in _METAVARS.items() if kind in kinds), "TEXT")
        return f"{word},..." if item_types(self.hint) else word


#: Where a value may be of several kinds, the first of them says what the help calls it.
_METAVARS = {float: "NUMBER", int: "INTEGER", Path: "FILE"}


def options_from(**kinds: Kind) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a command of a function that wants settings.

    The fields of these classes that have a flag become options, and so do the fields of classes within them; of a class
    that :func:`~rowcast.config.from_table` names, too. ``--config`` names a file with a table for each class, and
    ``--set`` gives any other field. What an option says wins over ``--set``, and that over the file. Other parameters
    of the function are left to typer::

        @options_from(serve=ServeSettings, server=ServerSettings, link=LinkSettings)
        def serve(serve: ServeSettings, server: ServerSettings, link: LinkSettings, quiet: Quiet = False) -> None: ...

    Args:
        kinds: for each table and parameter its class, or a function that finds it (then it has no options).
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        flags = [flag for table, kind in kinds.items() if isinstance(kind, type) for flag in _flags(table, kind)]

        @functools.wraps(command)
        def run(**words: Any) -> Any:
            given: dict[str, dict[str, Any]] = {}
            for flag in flags:
                value = words.pop(flag.parameter)
                if value is not None:
                    place = given.setdefault(flag.table, {})
                    for name in flag.path[:-1]:
                        place = place.setdefault(name, {})
                    place[flag.path[-1]] = flag.read(value)
            path, overrides = words.pop("config"), words.pop("set_") or []
            classes = _found(kinds, path, overrides, given)
            tables = load_tables(classes, path, overrides=overrides, given=given)
            return command(**tables, **words)

        own = [each for each in inspect.signature(command).parameters.values() if each.name not in kinds]
        run.__annotations__ = {each.name: each.annotation for each in own}
        hints = get_type_hints(run, include_extras=True)
        own = [each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        parameters = [*(flag.option() for flag in flags), *_common(kinds), *own]
        del run.__wrapped__  # typer is to see the options, not the function
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _found(
    kinds: Mapping[str, Kind], path: Path | None, overrides: list[str], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, type]:
    """The class of each table; those that have to be found are so from what is said of the others."""
    direct = {table: kind for table, kind in kinds.items() if isinstance(kind, type)}
    if len(direct) < len(kinds):
        known = {field.name for kind in direct.values() for field in dataclasses.fields(kind)}
        told = [text for text in overrides if text.partition("=")[0].strip() in known]
        settings = load_tables(direct, path, overrides=told, given=given)
    return {table: kind if isinstance(kind, type) else kind(settings) for table, kind in kinds.items()}


def _flags(table: str, kind: Any, path: tuple[str, ...] = (), panel: str = "") -> Iterator[_Flag]:
    """The options of a class, in the order of its fields."""
    panel = panel or (inspect.getdoc(kind) or "").split("\n")[0].rstrip(".").split("; in a file")[0]
    for field in dataclasses.fields(kind):
        hint = hints_of(kind)[field.name]
        if "table" in field.metadata:
            if dataclasses.is_dataclass(hint):
                yield from _flags(field.metadata["table"], hint)
            continue
        if field.metadata.get("flag"):
            yield _Flag(table, (*path, field.name), field, hint, panel)
        for inner in filter(dataclasses.is_dataclass, alternatives(hint)):
            yield from _flags(table, inner, (*path, field.name), panel)


def _common(kinds: Mapping[str, Kind]) -> list[inspect.Parameter]:
    """``--config`` and ``--set``."""
    inner = [
        field.metadata["table"]
        for kind in kinds.values()
        if isinstance(kind, type)
        for field in dataclasses.fields(kind)
        if "table" in field.metadata
    ]
    tables = ", ".join(f"[{table}]" for table in dict.fromkeys([*kinds, *inner]))
    config = typer.Option("--config", metavar="FILE", help=f"Settings file (TOML, or .json); read are {tables}.")
    told = "Another setting of these tables; repeatable."
    if not all(isinstance(kind, type) for kind in kinds.values()):
        told += " Those of the task are options too: --lr 0.1 is --set lr=0.1."
    changes = typer.Option("--set", metavar="KEY=VALUE", help=told)
    return [
        _parameter("config", Annotated[Path | None, config]),
        _parameter("set_", Annotated[list[str] | None, changes]),
    ]


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


class PanelCommand(TyperCommand):
    """A command whose help has its options under the headings of their settings classes."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading; what has none stands last, under ``Options``."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                panels.setdefault(panel, []).append(record)
        for panel in sorted(panels, key="Options".__eq__):
            with formatter.section(panel):
                formatter.write_dl(panels[panel])


class TaskCommand(PanelCommand):
    """A command of which a task has further options that are known when it is found: ``--lr 0.1`` is ``--set lr=0.1``.

    A switch stands without a value, as ``--shuffle`` or ``--no-shuffle``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        known = {option for each in self.get_params(ctx) for option in (*each.opts, *each.secondary_opts)}
        found: list[str] = []
        words = list(args)
        while words:
            word = words.pop(0)
            if word == "--":
                return super().parse_args(ctx, [*found, word, *words])
            name, equals, value = word.partition("=")
            # What is nearly one of ours is a slip, of which the parser says what is meant.
            if not _LONG.fullmatch(name) or name in known or difflib.get_close_matches(name, known, 1, _SLIP):
                found.append(word)
                if not equals and name in known and self._takes_value(ctx, name) and words:
                    found.append(words.pop(0))
                continue
            if not equals:
                value = words.pop(0) if words and not _OPTION.match(words[0]) else "true"
                if value == "true" and name.startswith("--no-"):
                    name, value = f"--{name[5:]}", "false"
            found += ["--set", f"{name[2:].replace('-', '_')}={value}"]
        return super().parse_args(ctx, found)

    def _takes_value(self, ctx: Any, name: str) -> bool:
        return any(
            name in (*each.opts, *each.secondary_opts) and not getattr(each, "is_flag", False)
            for each in self.get_params(ctx)
        )


#: A long option; what begins one, which no number does; and how alike a word and one of our options are for a slip.
_LONG, _OPTION, _SLIP = re.compile(r"--[a-z][a-z0-9-]*"), re.compile(r"-+[A-Za-z]"), 0.9


def limit_threads(threads: int) -> None:
    """Compute with so many threads, here: torch and the kernels over rows.

    Raises:
        ConfigError: not a positive number.
    """
    if threads < 1:
        raise ConfigError(f"threads: expected 1 or more, got {threads}")
    import torch

    from rowcast.rows import kernels

    torch.set_num_threads(threads)
    kernels.limit_threads(threads)
