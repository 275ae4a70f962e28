"""Settings of the commands that run split inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rowcast.config import Checked, setting
from rowcast.errors import ConfigError, near_match

__all__ = ["MEANINGS", "CameraSettings", "MethodSettings", "SplitDemoSettings", "SplitServeSettings"]

#: What ``--methods`` takes, and what each is. Only rowcast codes tensors, streams rows and has a late start.
MEANINGS: Mapping[str, str] = {
    "local": "all on the robot",
    "offload": "all on the server, inputs as they are",
    "chain": "at the rate that was measured, the best cut of the operators in their order",
    "pipeline": "at the rate that was measured, the best cut",
    "rowcast": "the same with rows streamed and coded, and a late start of the robot",
}


@dataclass(frozen=True)
class _ModelSettings(Checked):
    """A model, and who may compute it together."""

    secret_file: Path | None = setting(
        None, "File with the shared secret; beyond loopback this or a team is needed.", flag="--secret-file"
    )
    team: Path | None = setting(
        None,
        "Of a robot its file of 'rowcast team add', of a server the folder of 'rowcast team init'; in place of a "
        "secret.",
        flag="--team",
    )
    insecure: bool = setting(
        False, "Do without a secret or certificates beyond loopback, in the clear.", flag="--insecure"
    )
    example: str | None = setting(
        None,
        "What forward is called with: a shape, such as 1x480x640x3:uint8, or a function of the file; none: what the "
        "function that builds the model returns beside it.",
        flag="--example",
    )
    threads: int = setting(1, "Processor threads to compute with.", low=1, high=4096, flag="--threads")


@dataclass(frozen=True)
class SplitServeSettings(_ModelSettings):
    """Where a server of inferences listens; in a file, the table ``[serve]``."""

    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 for all.", flag="--host")
    port: int = setting(7118, "Port to listen on; 0 lets the system choose.", low=0, high=65535, flag="--port")
    log: Path | None = setting(None, "Folder for the journal, server.jsonl.", flag="--log", metavar="DIR")
    seconds: float | None = setting(None, "Stop after so long.", unit="s", low=0.0, high=1e9, flag="--seconds")


@dataclass(frozen=True)
class CameraSettings(_ModelSettings):
    """What a robot asks; in a file, the table ``[camera]``.

    Raises:
        ConfigError: a value out of its range, or no objective.
    """

    rate_hz: float = setting(10.0, "Inputs in a second.", unit="Hz", low=0.01, high=10_000.0, flag="--rate")
    seconds: float = setting(10.0, "For so long, of each method.", unit="s", low=0.1, high=1e6, flag="--seconds")
    deadline_ms: float | None = setting(
        None,
        "An answer is wanted so long after its input. With the fallback it is there by then, whatever the link does.",
        unit="ms",
        low=1.0,
        high=3_600_000.0,
        flag="--deadline-ms",
    )
    objective: str = setting(
        "latency", "What is made small: latency, energy, or both: 'latency+0.05*energy' (s, s/J).", flag="--objective"
    )
    fallback: str = setting(
        "model",
        "What the robot does where the server's answer is not there in time: 'model' computes all itself, 'none' "
        "gives none.",
        choices=("model", "none"),
        flag="--fallback",
    )
    images: str = setting(
        "random",
        "Inputs: 'random', or a folder of .npy files (.npz for several inputs; images where Pillow is installed).",
        flag="--images",
        metavar="DIR|random",
    )
    inputs: int = setting(32, "So many different inputs, over and over.", unit="inputs", low=1, high=100_000)
    codecs: tuple[str, ...] = setting(
        ("deflate",), "Codecs that inputs may travel with, where that makes an inference faster.", flag="--codecs"
    )
    name: str = setting("robot", "Stable name of this robot, unique among those of the server.", flag="--name")
    profile: Path | None = setting(
        None,
        "Times of robot and server, from 'rowcast split profile'; none: measure here, for a second.",
        flag="--profile",
    )
    slower: float = setting(
        1.0,
        "The robot computes so many times slower than this machine, by waiting; with a profile, as slow as that says. "
        "For demonstrations.",
        low=1.0,
        high=10_000.0,
        flag="--slower",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        from rowcast.planning import Objective  # late: it loads SciPy

        Objective.named(self.objective)

    @property
    def deadline_s(self) -> float | None:
        """The deadline in seconds."""
        return None if self.deadline_ms is None else self.deadline_ms / 1e3


@dataclass(frozen=True)
class MethodSettings(Checked):
    """Which methods are compared; in a file, the table ``[methods]``.

    Raises:
        ConfigError: none, an unknown one, or one twice.
    """

    methods: tuple[str, ...] = setting(
        ("local", "offload", "pipeline", "rowcast"),
        f"Run one after the other: {'; '.join(f'{name}, {text}' for name, text in MEANINGS.items())}.",
        flag="--methods",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods:
            raise ConfigError("methods: expected at least one, for example 'local,rowcast'")
        for name in self.methods:
            if name not in MEANINGS:
                raise ConfigError(f"methods: unknown method {name!r}; {near_match(name, MEANINGS)}")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"methods: {','.join(self.methods)} names one twice")


@dataclass(frozen=True)
class SplitDemoSettings(MethodSettings):
    """Settings of a demo of split inference; in a file, the table ``[demo]``."""

    seconds: float = setting(60.0, "How long all methods run together.", unit="s", low=0.5, high=1e5, flag="--seconds")
    rate_hz: float = setting(5.0, "Images in a second.", unit="Hz", low=0.1, high=1000.0, flag="--rate")
    robot_ms: float = setting(
        160.0,
        "What the model takes on the robot. It computes slower than this machine by waiting; the server computes as "
        "fast as this machine does.",
        unit="ms",
        low=1.0,
        high=10_000.0,
        flag="--robot-ms",
    )
    deadline_ms: float = setting(
        300.0, "An answer is wanted so long after its image.", unit="ms", low=1.0, high=100_000.0, flag="--deadline-ms"
    )
    trace: str = setting("outdoor", "The link: outdoor, constant:MBPS or a trace file.", flag="--trace")
    ratio: float = setting(
        0.25,
        "Seconds to send an image as it is at the trace's best rate, per second that the robot takes for the model. "
        "Lower makes the network matter less.",
        low=0.001,
        high=1000.0,
    )
    outages: bool = setting(
        True, "The link carries nothing for two scripted times: two seconds or so, and one.", flag="--outages"
    )
    seed: int = setting(0, "Of images and link.", low=0, high=2**32 - 1, flag="--seed")
    small: bool = setting(False, "A network that takes a millisecond; for tests.")
