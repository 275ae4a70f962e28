"""A contender of ``peers.py``: Flower, its strategy FedAvg over gRPC.

As in Flower's quickstart for PyTorch: SGD is made anew for each round, all clients take part, the server averages by
the number of examples and waits for all of a round; no round has a time limit, which is the default. An epoch of local
steps, as in the quickstart, would be one round in the whole run, so ``--local-steps`` says how many there are; several
are tried, and the best is reported. Clients evaluate nothing. The server has the starting model, and need not ask for
it.

The server and clients are those of ``flwr.server.start_server`` and ``flwr.client.start_client``, one connection for
each client: later ones ask a SuperLink for work every few seconds, which costs a short round dearly.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import flwr
import torch
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from torch import nn

from peers_job import Job, Robot, Server, arguments


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--local-steps", type=int, default=8, help="steps of a client in a round")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    if options.serve:
        serve(options)
    else:
        flwr.client.start_client(server_address=options.address, client=Client(Robot(options), options.local_steps))


def arrays_of(model: nn.Module) -> list[Any]:
    """The parameters as Flower sends them; statistics of batch norm are frozen in this job, and not sent."""
    return [value.detach().numpy() for value in model.parameters()]


class Client(flwr.client.Client):
    """A robot: takes the model of the team, makes some steps, gives its own back."""

    def __init__(self, robot: Robot, local_steps: int) -> None:
        self._robot = robot
        self._local_steps = local_steps
        self._rounds = 0

    def fit(self, ins: FitIns) -> FitRes:
        robot = self._robot
        model = robot.worker.model
        with torch.no_grad():
            for parameter, array in zip(model.parameters(), parameters_to_ndarrays(ins.parameters), strict=True):
                parameter.copy_(torch.from_numpy(array))
        if self._rounds == 0:
            robot.joined()
        else:
            robot.keep_now_and_then()  # the model of the team
        robot.worker.optimizer = robot.worker.task.make_optimizer(model)
        for _ in range(self._local_steps):
            if not robot.gradient():
                robot.finish()
            robot.worker.optimizer.step()
            robot.stepped(keep=False, rounds=self._rounds)
        self._rounds += 1
        examples = self._local_steps * robot.batch
        return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays_of(model)), examples, {})


def serve(options: argparse.Namespace) -> None:
    """Rounds without an end."""
    job = Job.load(options.job)
    server = Server()
    strategy = flwr.server.strategy.FedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=job.workers,
        min_available_clients=job.workers,
        initial_parameters=ndarrays_to_parameters(arrays_of(job.build().model())),
    )
    server.ready()
    flwr.server.start_server(
        server_address=options.address, config=flwr.server.ServerConfig(num_rounds=10**9), strategy=strategy
    )


if __name__ == "__main__":
    main()
