"""A contender of ``peers.py``: Rowcast as a user writes it, ``rowcast.join`` and ``rowcast.Optimizer``.

Its server is ``rowcast serve``. Nothing is set but what the job is: the policy is ``rowcast``, the settings are the
default ones.
"""

from __future__ import annotations

import rowcast
from peers_job import Robot, arguments


def main() -> None:
    options = arguments(__doc__).parse_args()
    robot = Robot(options)
    worker = robot.worker
    team = rowcast.join(options.address, name=f"robot-{robot.rank}", insecure=True)
    # The statistics of batch norm are frozen in this job, so that none need to travel.
    optimizer = rowcast.Optimizer(worker.optimizer, worker.model, team, buffers="local")
    robot.evaluating = optimizer.evaluating
    robot.joined()
    robot.train(optimizer.step)


if __name__ == "__main__":
    main()
