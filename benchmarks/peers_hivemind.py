"""A contender of ``peers.py``: hivemind, ``hivemind.Optimizer`` over a DHT that is entered at the access point.

As in hivemind's quickstart: each robot steps by itself (``use_local_updates``) and the parameters are averaged in the
background (``delay_state_averaging``, the default) whenever all together have seen ``target_batch_size`` samples: with
78 local steps that is the 10,000 of the quickstart. As its configuration guide says: Float16Compression for what
travels; ``matchmaking_time`` of 5 s, for local runs; ``averaging_timeout`` of twice what an all-reduce takes, here
120 s. ``next_chunk_timeout``, by default the 5 s of matchmaking, is 60 s, in hivemind's favour: links here carry next
to nothing for longer than 5 s at a time, for which a robot would be banned from its group.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import hivemind
from hivemind.compression import Float16Compression

from peers_job import Job, Robot, Server, arguments

#: Where the robots read how to enter the DHT.
ENTRY = "hivemind.txt"
MATCHMAKING_S, AVERAGING_LIMIT_S, CHUNK_LIMIT_S = 5.0, 120.0, 60.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--local-steps", type=int, default=78, help="steps of a robot from one average to the next")
    options = parser.parse_args()
    if options.serve:
        serve(options)
    else:
        train(options)


def serve(options: argparse.Namespace) -> None:
    """The first node of the DHT."""
    server = Server()
    port = options.address.rpartition(":")[2]
    dht = hivemind.DHT(host_maddrs=[f"/ip4/{options.host}/tcp/{port}"], start=True)
    entry = Path(Job.load(options.job).folder, ENTRY)
    entry.write_text("\n".join(map(str, dht.get_visible_maddrs())), encoding="utf-8")
    server.ready()
    server.wait()


def train(options: argparse.Namespace) -> None:
    """A robot."""
    robot = Robot(options)
    entry = Path(robot.job.folder, ENTRY).read_text(encoding="utf-8").split()
    dht = hivemind.DHT(initial_peers=entry, host_maddrs=[f"/ip4/{options.host}/tcp/0"], start=True)
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="peers",
        batch_size_per_step=robot.batch,
        target_batch_size=options.local_steps * robot.batch * robot.job.workers,
        optimizer=robot.worker.optimizer,
        use_local_updates=True,
        matchmaking_time=MATCHMAKING_S,
        averaging_timeout=AVERAGING_LIMIT_S,
        next_chunk_timeout=CHUNK_LIMIT_S,
        state_averaging_compression=Float16Compression(),
        load_state_compression=Float16Compression(),
        verbose=True,
    )
    robot.joined()

    def facts() -> dict[str, Any]:
        return {"rounds": optimizer.local_epoch}

    robot.train(optimizer.step, facts)


if __name__ == "__main__":
    main()
