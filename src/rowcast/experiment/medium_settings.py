"""What lies between the hosts of an emulated network, beside the bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.config import Checked, setting
from rowcast.errors import ConfigError

__all__ = ["QUEUE_MS", "SHAPERS", "MediumSettings"]

#: What moves packets at the rates of the traces: a program of ours, or the kernel's traffic control.
SHAPERS = ("user", "kernel")
#: Length of the queue in front of a link, as time at its present rate.
QUEUE_MS = 50.0


@dataclass(frozen=True)
class MediumSettings(Checked):
    """The medium of ``rowcast emulate``; in a file, the table ``[medium]``.

    Raises:
        ConfigError: a value out of its range, or one that the kernel's shaper cannot do.
    """

    shaper: str = setting(
        "user",
        "What moves the packets: 'user', a program of ours, exact to the packet; 'kernel', htb of the kernel: rates "
        "only, no delay, jitter, loss or shared channel, and too little below 0.3 Mbit/s.",
        choices=SHAPERS,
        flag="--shaper",
    )
    delay_ms: float = setting(
        0.0,
        "How long a packet is on its way, beyond what its bytes take; links between cities have their own.",
        unit="ms",
        low=0.0,
        high=5000.0,
        flag="--delay-ms",
    )
    jitter_ms: float = setting(
        0.0,
        "By how much that differs from packet to packet; packets of a link stay in order.",
        unit="ms",
        low=0.0,
        high=5000.0,
        flag="--jitter-ms",
    )
    loss: float = setting(0.0, "Share of the packets that are lost, each alone.", low=0.0, high=1.0, flag="--loss")
    queue_ms: float = setting(
        QUEUE_MS,
        "Length of the queue in front of a link, as time at its present rate; beyond it packets are dropped.",
        unit="ms",
        low=1.0,
        high=60_000.0,
        flag="--queue-ms",
    )
    congestion_control: str | None = setting(
        None,
        "TCP congestion control of all hosts ('cubic', 'bbr', 'reno'); none keeps the system's, which is recorded. It "
        "can change results two-fold, so pin it when you compare with another machine.",
        flag="--congestion-control",
    )
    packet_log: bool = setting(
        False, "Write each packet to packets.pcap in the folder of its run, for Wireshark.", flag="--packet-log"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shaper == "kernel":
            for name, word in (("delay_ms", "delay"), ("jitter_ms", "jitter"), ("loss", "loss")):
                if value := getattr(self, name):
                    raise ConfigError(
                        f"{name}: expected 0 with --shaper kernel, which knows no {word}, got {value:g}; take "
                        "--shaper user"
                    )
            if self.packet_log:
                raise ConfigError("packet_log: expected --shaper user, which sees each packet, got --shaper kernel")
