"""Families of policies, and how a policy is written.

A name is written ``family``, ``family:number`` or with settings behind a question mark. The number is the slack; for
the families that compute several steps between two exchanges, the number of local steps; for ``flown`` the lag; for
``powersgd`` the rank::

    bsp      ssp:4      asp      flown:4      rog:20      rog:4?codec=raw&f2=0.5      localsgd:8
    diloco:30?outer_lr=0.5
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rowcast.errors import ConfigError, near_match
from rowcast.registry import Registry
from rowcast.sync.policy import Policy

__all__ = ["COMMON_OPTIONS", "REGISTRY", "Family", "needed", "parse_policy", "policy_forms", "register"]


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(text)
    return text == "on"


#: How the value of an option is read. Each is a setting of :class:`Policy`, but for those that a family adapts.
_READERS: Mapping[str, Callable[[str], object]] = {
    "codec": str,
    "granularity": str,
    "order": str,
    "share": float,
    "pull_share": float,
    "f1": float,
    "f2": float,
    "outer_lr": float,
    "outer_momentum": float,
    "trust": float,
    "row_weights": str,
    "feedback": float,
    "pull_codec": str,
    "mta": str,
    "counts": str,
    "race": float,
    "compat": str,
    "elastic": _switch,
    "ahead": int,
    "anticipate": str,
    "adapt": _switch,
    "refine": _switch,
    "auto": _switch,
    "most_slack": int,
    "auto_lr": _switch,
    "pulls": str,
    "budget_s": float,
    "smooth": float,
}

#: Options of every family.
COMMON_OPTIONS = (
    "codec",
    "granularity",
    "order",
    "share",
    "pull_share",
    "f1",
    "f2",
    "outer_lr",
    "outer_momentum",
    "trust",
    "row_weights",
    "feedback",
    "pull_codec",
)


@dataclass(frozen=True)
class Family:
    """Policies that are written alike.

    Attributes:
        form: how one is written: the name, and behind a colon S for a slack, H for local steps or R for a rank.
        meaning: what it stands for, in a sentence or two.
        build: takes what stands before the question mark and the number behind the colon, if one was written.
        options: what may stand behind the question mark beside :data:`COMMON_OPTIONS`.
        adapt: what an option makes of a policy that is not a setting of its own, by option.
    """

    form: str
    meaning: str
    build: Callable[[str, int | None], Policy]
    options: tuple[str, ...] = ()
    adapt: Mapping[str, Callable[[Policy, str], Policy]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What stands before the colon."""
        return self.form.partition(":")[0]

    @property
    def example(self) -> str:
        """One of them, with a usual number."""
        return self.form.replace("S", "4").replace("H", "8").replace("R", "2")

    @property
    def all_options(self) -> tuple[str, ...]:
        """What may stand behind the question mark."""
        return (*COMMON_OPTIONS, *self.options)


def _checked(name: str, value: object) -> Family:
    if not isinstance(value, Family) or value.name != name:
        raise ConfigError(f"policy {name!r}: expected a rowcast.sync.Family with a form '{name}' or '{name}:S'")
    unknown = [option for option in value.options if option not in _READERS]
    if unknown:
        raise ConfigError(f"policy {name!r}: unknown option {unknown[0]!r}; {near_match(unknown[0], _READERS)}")
    return value


#: Every family by name; those of plug-ins from the entry points ``rowcast.policies``.
REGISTRY: Registry[Family] = Registry("policy", "rowcast.policies", _checked)


def register(family: Family) -> Family:
    """Make a family known: its policies may be written wherever a policy is. Both ends of a team need it.

    Raises:
        ConfigError: its name is taken, or cannot be one; or it has an option that is not known.
    """
    return REGISTRY.register(family.name, family)


def needed(name: str, slack: int | None) -> int:
    """The number of a policy that is not written without one.

    Raises:
        ConfigError: it is missing.
    """
    if slack is None:
        raise ConfigError(f"policy {name!r}: expected a slack behind a colon, for example '{name}:4'")
    return slack


def policy_forms() -> str:
    """How each family is written, on one line: ``bsp, ssp:S, ..., rowcast or rowcast:S``."""
    forms = []
    for family in REGISTRY.usable().values():
        with contextlib.suppress(ConfigError):
            family.build(family.name, None)
            forms.append(family.name)
        if ":" in family.form:
            forms.append(family.form)
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


def parse_policy(text: str) -> Policy:
    """The policy that a name stands for.

    Raises:
        ConfigError: unknown family or option (with a near match), an option of another family, or a value out of range.
    """
    head, _, options = text.strip().partition("?")
    name, colon, number = head.partition(":")
    if name not in REGISTRY:
        examples = sorted(family.example for family in REGISTRY.usable().values())
        raise ConfigError(f"unknown policy {text!r}; {near_match(head, examples)}")
    family = REGISTRY[name]
    if colon and not (number.isascii() and number.isdigit() and int(number) <= 10_000):
        raise ConfigError(f"policy {text!r}: expected a whole number in 0 .. 10000 behind the colon, got {number!r}")
    policy = family.build(head, int(number) if colon else None)
    changes: dict[str, object] = {"name": text.strip()}
    for option in filter(None, options.split("&")):
        key, value = _read_option(text, family, option)
        if key in family.adapt:
            policy = family.adapt[key](policy, str(value))
        else:
            changes[key] = value
    return dataclasses.replace(policy, **changes)  # type: ignore[arg-type]


def _read_option(text: str, family: Family, option: str) -> tuple[str, object]:
    """Name and value of an option."""
    key, equals, value = option.partition("=")
    if key not in _READERS or not equals:
        raise ConfigError(f"policy {text!r}: unknown option {option!r}; {near_match(key, _READERS)}")
    if key not in family.all_options:
        others = [other.name for other in REGISTRY.usable().values() if key in other.options]
        raise ConfigError(f"policy {text!r}: the option {key} goes with {' or '.join(map(repr, others))} only")
    try:
        return key, _READERS[key](value)
    except ValueError as error:
        wanted = "'on' or 'off'" if _READERS[key] is _switch else "a number"
        raise ConfigError(f"policy {text!r}: {key}: expected {wanted}, got {value!r}") from error
