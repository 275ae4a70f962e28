"""How to reach a broker of MQTT: versions, users, certificates, the session that it keeps."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowcast.errors import ConfigError, near_match, visible

if TYPE_CHECKING:
    from paho.mqtt.client import Client

__all__ = ["MqttLink", "check_topic"]

VERSIONS = ("5", "3.1.1")
#: A session is kept for a week after the device was there last.
EXPIRY_S = 604_800
#: Seconds between two signs of life where nothing else is sent; after half as many more the link counts as dead.
KEEPALIVE_S = 15
#: Pauses between two attempts to connect, in seconds.
AGAIN_S = (1, 15)
MOST_TOPIC_BYTES = 0xFFFF
MOST_EXPIRY_S = 0xFFFF_FFFF
MOST_KEEPALIVE_S = 0xFFFF


def check_topic(topic: str, source: str) -> None:
    """Refuse what one cannot subscribe to.

    Raises:
        ConfigError: ``+`` or ``#`` are not a level of their own, or ``#`` is not the last; it is empty, or too long.
    """
    levels = topic.split("/")
    alone = all(level in ("+", "#") or not set(level) & set("+#\0") for level in levels)
    if not alone or "#" in levels[:-1] or not 0 < len(topic.encode()) <= MOST_TOPIC_BYTES:
        raise ConfigError(
            f"source {source}: expected a topic, with + for any level and # as the last for all below, got "
            f"{visible(topic, 100)!r}"
        )


@dataclass(frozen=True, repr=False)
class MqttLink:
    """Settings of the connection. Never shown: they have a password.

    Attributes:
        version: of the protocol, ``"5"`` or ``"3.1.1"``.
        expiry_s: the broker keeps what comes for a device that is away for so long (MQTT 5; others keep it as they
            like).
        keepalive_s: seconds between two signs of life.
        tls: with TLS; also where one of the files is given.
        ca: certificates that the broker's is checked with, otherwise those of the system.
        certificate: our own, with its ``key``.
    """

    version: str = "5"
    username: str = ""
    password: str = ""
    expiry_s: int = EXPIRY_S
    keepalive_s: int = KEEPALIVE_S
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""

    @classmethod
    def from_options(cls, options: Mapping[str, str], source: str) -> MqttLink:
        """Of names and texts.

        Raises:
            ConfigError: an unknown name, or a value that cannot be used; values are not shown.
        """
        names = ("version", "username", "password", "expiry_s", "keepalive_s", "tls", "ca", "certificate", "key")
        found: dict[str, Any] = {}
        for name, value in options.items():
            if name not in names:
                raise ConfigError(f"source {source}: unknown setting {visible(name)!r}; {near_match(name, names)}")
            found[name] = value
        for name, most in (("expiry_s", MOST_EXPIRY_S), ("keepalive_s", MOST_KEEPALIVE_S)):
            if name in found:
                value = found[name]
                if not (value.isdecimal() and value.isascii() and 1 <= int(value) <= most):
                    raise ConfigError(f"source {source}: {name}: expected whole seconds from 1 to {most}")
                found[name] = int(value)
        if "tls" in found:
            if found["tls"] not in ("0", "1"):
                raise ConfigError(f"source {source}: tls: expected 1 or 0")
            found["tls"] = found["tls"] == "1"
        link = cls(**found)
        if link.version not in VERSIONS:
            raise ConfigError(f"source {source}: version: expected {' or '.join(VERSIONS)}, got another")
        if bool(link.certificate) != bool(link.key):
            raise ConfigError(f"source {source}: expected certificate and key together, got one of them")
        return link

    @property
    def five(self) -> bool:
        """Whether MQTT 5 is spoken."""
        return self.version == "5"

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used."""
        return self.tls or bool(self.ca or self.certificate)

    def context(self, source: str) -> ssl.SSLContext:
        """For TLS.

        Raises:
            ConfigError: a file that cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"source {source}: certificates cannot be used: {error}") from error
        return context

    def client(self, name: str, source: str) -> Client:
        """A client that acknowledges nothing by itself, not connected yet.

        Args:
            name: of its session at the broker.
            source: for messages.

        Raises:
            ConfigError: a file that cannot be used.
        """
        from paho.mqtt.client import Client, MQTTv5, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=MQTTv5 if self.five else MQTTv311,
            clean_session=None if self.five else False,
            manual_ack=True,
        )
        if self.username or self.password:
            client.username_pw_set(self.username, self.password or None)
        if self.encrypted:
            client.tls_set_context(self.context(source))
        client.reconnect_delay_set(*AGAIN_S)
        return client

    def session(self, window: int) -> dict[str, Any]:
        """What to connect with, so that the broker keeps the session.

        Args:
            window: messages that it may send before one is acknowledged.
        """
        if not self.five:
            return {}
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self.expiry_s
        properties.ReceiveMaximum = window
        return {"clean_start": False, "properties": properties}

    def subscription(self) -> dict[str, Any]:
        """How to subscribe: at least once, and without retained messages: a stream is what is published from now on."""
        if not self.five:
            return {"qos": 1}
        from paho.mqtt.subscribeoptions import SubscribeOptions

        return {"options": SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)}
