"""Who takes part in ``peers.py``, and how each is started."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peers_job import PORT

__all__ = ["CONTENDERS", "Contender", "missing"]

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Contender:
    """A contender.

    Attributes:
        name: as in ``--parts``.
        script: of its robots.
        words: its own options of the script.
        served: the script runs as a server, too; where not, robot 0 is the one whom the others find.
        package: what it needs beside Rowcast.
        says: its configuration, in a line.
    """

    name: str
    script: str
    words: tuple[str, ...] = ()
    served: bool = False
    package: str = ""
    says: str = ""

    @property
    def family(self) -> str:
        """The name without what is tried out."""
        return self.name.partition(":")[0]

    def robot(self, job: Path, rank: int, hosts: Sequence[str]) -> list[str]:
        """The command of a robot.

        Args:
            job: file of the job.
            rank: which robot.
            hosts: addresses of the access point and of the robots.
        """
        address = hosts[0] if self.served or self.name == "rowcast" else hosts[1]
        own = ["--rank", str(rank), "--host", hosts[1 + rank], "--address", f"{address}:{PORT}"]
        return [sys.executable, str(HERE / self.script), "--job", str(job), *own, *self.words]

    def server(self, job: Path, folder: Path, workers: int, host: str) -> list[str] | None:
        """The command of the server, if there is one."""
        if self.name == "rowcast":
            serve = [sys.executable, "-m", "rowcast", "serve", "--quiet", "--insecure", "--policy", "rowcast"]
            place = ["--host", host, "--port", str(PORT), "--workers", str(workers)]
            return [*serve, *place, "--journal", str(folder / "server.jsonl")]
        if not self.served:
            return None
        own = ["--host", host, "--address", f"{host}:{PORT}", "--serve"]
        return [sys.executable, str(HERE / self.script), "--job", str(job), *own, *self.words]


def missing(contender: Contender) -> str | None:
    """What keeps a contender from being run here, with the remedy; ``None``: nothing."""
    if contender.package and importlib.util.find_spec(contender.package) is None:
        return f"{contender.package} is not installed; run pip install 'rowcast[peers]'"
    return None


def _flower(local_steps: int) -> Contender:
    return Contender(
        f"flower:{local_steps}",
        "peers_flower.py",
        ("--local-steps", str(local_steps)),
        served=True,
        package="flwr",
        says=f"Flower, FedAvg over gRPC, {local_steps} local steps",
    )


def _hivemind(local_steps: int) -> Contender:
    return Contender(
        f"hivemind:{local_steps}",
        "peers_hivemind.py",
        ("--local-steps", str(local_steps)),
        served=True,
        package="hivemind",
        says=f"hivemind, local updates, parameters in float16 after {local_steps} steps, in the background",
    )


def _torchft(local_steps: int) -> Contender:
    return Contender(
        f"torchft:{local_steps}" if local_steps else "torchft",
        "peers_torchft.py",
        ("--local-steps", str(local_steps)),
        served=True,
        package="torchft",
        says=f"torchft, LocalSGD, {local_steps} steps" if local_steps else "torchft, DDP on gloo, float32",
    )


#: All, by name, in the order of the table.
CONTENDERS: dict[str, Contender] = {
    each.name: each
    for each in (
        Contender("rowcast", "peers_rowcast.py", says="Rowcast, defaults"),
        Contender("ddp", "peers_ddp.py", says="PyTorch DDP on gloo, float32"),
        Contender("ddp:fp16", "peers_ddp.py", ("--hook", "fp16"), says="PyTorch DDP, fp16_compress_hook"),
        Contender("ddp:powersgd", "peers_ddp.py", ("--hook", "powersgd"), says="PyTorch DDP, PowerSGD, rank 1"),
        *map(_flower, (1, 8, 32)),
        *map(_hivemind, (8, 32, 78)),
        *map(_torchft, (0, 32)),
    )
}
