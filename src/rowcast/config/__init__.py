"""Settings: frozen dataclasses in which each field carries its unit, its range, its choices and advice.

A setting is read from one file and overridden on the command line; an unknown key is an error with a near-match
hint::

    settings = load(ServerSettings, "team.toml", overrides=["absence_limit_s=5"])

The reference page ``docs/settings.md`` (:func:`describe`) and the options of the commands are made from these classes.
"""

from rowcast.config.fields import Checked, describe, from_table, same_as, setting
from rowcast.config.inference import AnswererSettings, AskerSettings
from rowcast.config.nodes import LinkSettings, ServerSettings, StateSettings, StrangerSettings, WorkerSettings
from rowcast.config.reading import as_number, load, load_tables, load_values, read_file, save_tables
from rowcast.config.secret import Secret, read_secret

__all__ = [
    "AnswererSettings",
    "AskerSettings",
    "Checked",
    "LinkSettings",
    "Secret",
    "ServerSettings",
    "StateSettings",
    "StrangerSettings",
    "WorkerSettings",
    "as_number",
    "describe",
    "from_table",
    "load",
    "load_tables",
    "load_values",
    "read_file",
    "read_secret",
    "same_as",
    "save_tables",
    "setting",
]
