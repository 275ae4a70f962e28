"""A contender of ``peers.py``: torchft, whose groups go on without a replica that is away.

Each robot is a replica group of its own; the lighthouse, which decides who takes part, is at the access point with
the settings of torchft's README: at least one replica, 10 s to join. Without ``--local-steps``: its
DistributedDataParallel over ``ProcessGroupGloo``, as in its ``train_ddp.py``; with them: its ``LocalSGD``, which
averages parameters after so many steps. A collective may take ``--limit-s``: the 30 s of the example are less than one
float32 all-reduce takes on these links, so that no step would ever be made.
"""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import TCPStore
from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo
from torchft.coordination import LighthouseServer
from torchft.local_sgd import LocalSGD

from peers_job import Robot, Server, arguments


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--local-steps", type=int, default=0, help="steps from one average to the next; 0: gradients")
    parser.add_argument("--limit-s", type=float, default=120.0, help="what a collective may take (s)")
    options = parser.parse_args()
    if options.serve:
        serve(options)
    else:
        train(options)


def serve(options: argparse.Namespace) -> None:
    """The lighthouse."""
    server = Server()
    lighthouse = LighthouseServer(bind=options.address, min_replicas=1, join_timeout_ms=10_000, quorum_tick_ms=100)
    server.ready()
    server.wait()
    lighthouse.shutdown()


def train(options: argparse.Namespace) -> None:
    """A robot."""
    robot = Robot(options)
    worker, model = robot.worker, robot.worker.model
    inner = worker.optimizer
    limit = timedelta(seconds=options.limit_s)

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["optimizer"])

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": inner.state_dict()}

    store = TCPStore(options.host, 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=limit),
        load_state_dict=load,
        state_dict=state,
        min_replica_size=1,
        timeout=limit,
        quorum_timeout=limit,
        rank=0,
        world_size=1,
        store_addr=options.host,
        store_port=store.port,
        lighthouse_addr=f"http://{options.address}",
        replica_id=f"robot-{robot.rank}",
        hostname=options.host,
        init_sync=False,  # all begin with the same parameters
    )
    if options.local_steps:
        _train_locally(robot, manager, options.local_steps)
    worker.model = DistributedDataParallel(manager, model)
    worker.optimizer = Optimizer(manager, inner)
    robot.joined()
    robot.train(worker.optimizer.step, lambda: {"rounds": manager.current_step()})


def _train_locally(robot: Robot, manager: Manager, local_steps: int) -> None:
    """The models between two averages are not kept: they are not the team's."""
    inner = robot.worker.optimizer
    averages = manager.current_step()
    with LocalSGD(manager, robot.worker.model, inner, sync_every=local_steps):
        robot.joined()
        while not robot.over and robot.gradient():
            inner.step()
            averaged = manager.current_step()
            robot.stepped(keep=averaged > averages, rounds=averaged)
            averages = averaged
        robot.finish()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
