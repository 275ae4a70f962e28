"""Parameters on a GPU: what a robot there shares is what one on a processor shares. Skipped where there is no GPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn

from live import LiveServer
from rowcast.config import WorkerSettings
from rowcast.drivers.sockets import Team
from rowcast.optim import Optimizer
from rowcast.tasks import build_task
from test_optim_fakes import Hub, flat, small_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here"),
]


def steps(model: nn.Module, optimizer: Optimizer, count: int) -> None:
    """Train on whole numbers."""
    device = next(model.parameters()).device
    for step in range(count):
        optimizer.zero_grad()
        model(torch.full((2, 4), float(step % 3 - 1), device=device)).sum().backward()
        optimizer.step()


def test_a_replica_on_a_gpu_is_that_of_a_processor() -> None:
    """Whole numbers, and halves of them: both compute exactly."""
    ends = []
    for device in ("cpu", "cuda"):
        hub = Hub(1)
        model = nn.Linear(4, 3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape))
        model.to(device)
        optimizer = Optimizer(torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5), model, hub.member())
        steps(model, optimizer, 8)
        ends.append(flat(model.cpu()))
        np.testing.assert_array_equal(hub.members[0].replica, ends[-1])
    np.testing.assert_array_equal(ends[1], ends[0])
    assert (ends[0] != np.concatenate([np.arange(12), np.arange(3)])).any()


@pytest.mark.parametrize("vectors", ["host", "device"])
def test_a_robot_with_a_gpu_and_one_without_train_one_model_over_sockets(vectors: str) -> None:
    with LiveServer("bsp?codec=onebit", expected_workers=2) as server:
        models = [small_model(1), small_model(2).to("cuda")]
        errors: list[BaseException] = []

        def train(index: int) -> None:
            try:
                settings = WorkerSettings(vectors=vectors if index == 1 else "host")
                team = Team(server.endpoint, name=f"robot-{index}", settings=settings)
                model = models[index]
                inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
                with Optimizer(inner, model, team) as optimizer:
                    assert (team.placed is not None) == (settings.vectors == "device")
                    steps(model, optimizer, 15)
            except BaseException as error:
                errors.append(error)

        robots = [threading.Thread(target=train, args=(index,)) for index in range(2)]
        for robot in robots:
            robot.start()
        for robot in robots:
            robot.join(60)
        assert not any(robot.is_alive() for robot in robots)
    assert not errors, errors
    np.testing.assert_allclose(flat(models[1].cpu()), flat(models[0]), rtol=1e-5, atol=1e-6)


def test_the_task_adapts_on_a_gpu() -> None:
    task = build_task("cruda-digits", device="cuda")
    task.pretrain()
    worker = task.worker(0, 1)
    assert {parameter.device.type for parameter in worker.model.parameters()} == {"cuda"}
    worker.warm_up()
    before = worker.evaluate()["accuracy"]
    for _ in range(40):
        worker.compute()
        worker.optimizer.step()
    assert worker.evaluate()["accuracy"] > before + 10
    on_processor = build_task("cruda-digits")
    on_processor.keep_state(worker.model)
    assert abs(on_processor.worker(0, 1).evaluate()["accuracy"] - worker.evaluate()["accuracy"]) < 1.0


def test_a_stream_of_samples_goes_to_the_gpu() -> None:
    task = build_task("cruda-digits", device="cuda", pretrain_epochs=0)
    task.pretrain()
    worker = task.worker(0, 1)
    samples = task.samples(0, 1)
    batch = task.collate([tuple(part.cpu() for part in next(samples)) for _ in range(4)])
    assert np.isfinite(worker.compute_on(batch))
