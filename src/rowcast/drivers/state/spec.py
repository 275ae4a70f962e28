"""What a server or a relay is made of, so that it can be made again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.errors import ConfigError
from rowcast.journal import Journal
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from rowcast.training.relay import RelayNode

__all__ = ["RelaySpec", "TeamSpec"]


@dataclass(frozen=True)
class RelaySpec:
    """What a relay is made of beside a server.

    Attributes:
        name: of the relay.
        settings: of the worker above.
    """

    name: str
    settings: WorkerSettings


@dataclass(frozen=True)
class TeamSpec:
    """What a server is made of.

    Attributes:
        policy: of the team, as text.
        settings, links, secret: see :class:`~rowcast.training.ServerNode`.
        relay: it is that of a relay; ``None``: there is no server above it.
    """

    policy: str
    settings: ServerSettings
    links: LinkSettings
    secret: bytes | None = None
    relay: RelaySpec | None = None

    def node(self, journal: Journal, entropy: Callable[[int], bytes] = os.urandom) -> ServerNode:
        """A new server.

        Raises:
            ConfigError: an unknown policy, or one that a relay cannot have.
        """
        policy = parse_policy(self.policy)
        if self.relay is None:
            return ServerNode(
                policy,
                settings=self.settings,
                link_settings=self.links,
                secret=self.secret,
                journal=journal,
                entropy=entropy,
            )
        return RelayNode(
            self.relay.name,
            policy,
            settings=self.settings,
            worker_settings=self.relay.settings,
            link_settings=self.links,
            secret=self.secret,
            journal=journal,
            entropy=entropy,
        )

    def check(self, node: ServerNode) -> None:
        """Refuse a server that came back and is another one.

        Raises:
            ConfigError: it is that of a relay and this one is not, or the other way round, or of another name.
        """
        names = [one and f"relay {one!r}" for one in (getattr(node, "name", ""), self.relay.name if self.relay else "")]
        if names[0] != names[1]:
            found, wanted = (name or "a server" for name in names)
            raise ConfigError(f"state: expected that of {wanted}, got that of {found}; give another folder")
