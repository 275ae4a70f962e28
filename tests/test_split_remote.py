"""A model shared by a robot and a server over TCP: equal answers by every plan, and answers without a server."""

from __future__ import annotations

import concurrent.futures
import copy
import socket
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from captured_models import small
from rowcast.codecs.tensors import DeflateTensor
from rowcast.config import AnswererSettings, AskerSettings
from rowcast.errors import AuthenticationFailed, ConfigError, DeadlineMissed, ModelMismatch
from rowcast.graphs import Profile
from rowcast.inference import Planning
from rowcast.planning import Always, CostModel, Decision, LinkCosts, local, offload, pipeline, streamed_plan
from rowcast.split import Remote, RemoteOptions, Serving, capture
from rowcast.testing.zoo import SMALL

ONE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slow(model, seconds=10.0):
    """A profile in which the robot takes so long that the server is always asked."""
    times = np.array([float(bool(op.inputs)) for op in model.graph.ops])
    return Profile(times * seconds / times.sum(), times * 1e-6)


def remote_of(serving, model, **options):
    port = serving if isinstance(serving, int) else serving.port
    given = {"name": "robot", "deadline_s": None, **options}
    settings = given.pop("settings", AskerSettings())
    profile = given.pop("profile", None) or slow(model)
    codecs = given.pop("codecs", ())
    return Remote(
        f"127.0.0.1:{port}", model, options=RemoteOptions(profile=profile, codecs=codecs, settings=settings), **given
    )


def connected(remote):
    """The server has let the robot in."""
    assert remote._thread.wait(lambda: remote.connected, 20)
    return remote


def force(remote, plan):
    """Every input goes by this plan; those that were made for the server's welcome are there before."""
    assert remote._thread.wait(lambda: remote._thread._forward_s is not None, 20)
    remote._planner.submit(lambda: None).result(20)
    costs = CostModel(remote.model.graph, slow(remote.model), LinkCosts.symmetric(1e7))
    remote._thread.replan(Planning(Always(Decision.of(plan)), local(costs), 1.0))


def same(answer, expected):
    flat, expected_flat = (torch.utils._pytree.tree_flatten(each)[0] for each in (answer, expected))
    assert len(flat) == len(expected_flat)
    return all(torch.allclose(one, other, **ONE) for one, other in zip(flat, expected_flat, strict=True))


def costs_of(model, rate_bps=1e7):
    return CostModel(model.graph, slow(model, 0.05), LinkCosts.symmetric(rate_bps))


@pytest.mark.parametrize("name", ["camera", "densenet121", "detector", "recurrent", "unet-transposed", "vit-mha"])
def test_every_plan_gives_the_answer_of_the_undivided_model(name):
    model, arguments = small(name)
    expected = model(*arguments)
    costs = costs_of(model)
    everything = costs.mask(offload(costs).on_server)
    half = np.arange(len(model.graph)) >= len(model.graph) // 2
    half &= everything
    for index, op in enumerate(model.graph.ops):
        if op.joined:
            half[index] = half[op.inputs[0]]
    plans = [offload(costs), costs.plan("half", half), pipeline(costs)]
    plans += [streamed_plan(costs, everything, slabs) for slabs in (3, 8)]
    plans.append(streamed_plan(costs, half, 4))
    with Serving(model, "127.0.0.1:0") as serving, connected(remote_of(serving, model)) as remote:
        for plan in plans:
            if any(model.tensors[op] is None for op in (*plan.up, *plan.down)):
                continue
            force(remote, plan)
            answer = remote(*arguments)
            assert same(answer.value, expected), plan.method
            assert answer.by == ("both" if plan.where == "both" else "server") and answer.exact
            assert answer.plan == ("streamed" if plan.slabs > 1 else {"both": "pipeline"}.get(plan.where, "offload"))


def test_codecs_are_compiled_before_the_first_request(monkeypatch):
    """What is compiled at the first call would make the first answer late."""
    model, (image,) = small("camera")
    decoded = []
    decode = DeflateTensor.decode
    monkeypatch.setattr(
        DeflateTensor, "decode", lambda self, payload, kind: decoded.append(kind) or decode(self, payload, kind)
    )
    with Serving(model, "127.0.0.1:0"):
        assert image.numpy().dtype in {kind.dtype for kind in decoded}


def test_a_lossless_codec_changes_nothing_and_saves_bytes():
    model, _ = small("camera")
    image = (torch.arange(40 * 48).reshape(1, 40, 48, 1) // 30 % 200 + torch.tensor([0, 5, 9])).to(torch.uint8)
    with Serving(model, "127.0.0.1:0") as serving, connected(remote_of(serving, model)) as remote:
        plain = remote(image)
        costs = costs_of(model)
        plan = offload(costs)
        coded = type(plan)(**{**vars(plan), "up_codecs": ("deflate",), "down_codecs": ("raw",) * len(plan.down)})
        force(remote, coded)
        answer = remote(image)
    assert same(answer.value, plain.value)
    assert answer.outcome.spent.up_bytes < 0.8 * plain.outcome.spent.up_bytes


def test_without_a_server_the_robot_answers_itself():
    model, arguments = small("resnet50")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with remote_of(port, model, deadline_s=30.0) as remote:
        answer = remote(*arguments)
    assert answer.by == "robot" and answer.plan == "local" and same(answer.value, model(*arguments))
    assert answer.joules > 0 and answer.latency_s < 30.0 and answer.version == 0


def test_a_server_that_goes_away_in_the_middle_is_made_up_for():
    """It takes a request and says nothing more: the robot's own answer is there, and equal."""
    model, arguments = small("unet-bilinear")
    serving = Serving(model, "127.0.0.1:0")
    with connected(remote_of(serving, model)) as remote:
        entered, go_on = threading.Event(), threading.Event()
        run = serving._server._engine.run

        def stuck(works):
            entered.set()
            go_on.wait(30)
            return run(works)

        serving._server._engine.run = stuck
        future = remote.submit(*arguments)
        assert entered.wait(30)
        closing = threading.Thread(target=serving.close)
        closing.start()
        answer = future.result(30)
        go_on.set()
        closing.join(30)
    assert answer.by == "robot" and same(answer.value, model(*arguments))


def test_a_restarted_server_is_found_again():
    model, arguments = small("resnet50")
    first = Serving(model, "127.0.0.1:0")
    port = first.port
    with connected(remote_of(first, model)) as remote:
        assert remote(*arguments).by == "server"
        first.close()
        assert remote._thread.wait(lambda: not remote.connected, 20)
        assert remote(*arguments).by == "robot"
        with Serving(model, f"127.0.0.1:{port}"):
            connected(remote)
            assert remote(*arguments).by == "server"


def test_models_that_differ_are_told_the_first_difference():
    model, _ = small("resnet50")
    net, arguments = SMALL["resnet50"]()
    name, parameter = list(net.named_parameters())[3]
    with torch.no_grad():
        parameter[0] += 1
    other = capture(net, arguments)
    another = small("vgg19")[0]
    with Serving(model, "127.0.0.1:0") as serving:
        for robots, pattern in ((other, f"other parameters.*{name}"), (another, "other operators.*here")):
            remote = remote_of(serving, robots, name=f"robot-{len(robots.graph)}")
            with remote, pytest.raises(ModelMismatch, match=pattern):
                remote._thread.wait(lambda: False, 20)


def test_secrets(tmp_path):
    model, arguments = small("camera")
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a" * 40)
    wrong.write_text("b" * 40)
    with Serving(model, "127.0.0.1:0", secret_file=right) as serving:
        with connected(remote_of(serving, model, secret_file=right)) as remote:
            assert remote(*arguments).by == "server"
        impatient = AskerSettings(connect_limit_s=0.3)
        for number, secret in enumerate((wrong, None)):
            name = f"robot-{number}"
            remote = remote_of(serving, model, secret_file=secret, name=name, fallback=None, settings=impatient)
            with remote, pytest.raises(AuthenticationFailed):
                remote._thread.wait(lambda: False, 20)
    with pytest.raises(ConfigError, match="secret"):
        Serving(model, "0.0.0.0:0")
    with pytest.raises(ConfigError, match="secret"):
        Remote("10.0.0.1:7118", model, name="robot", options=RemoteOptions(profile=slow(model)))


def test_deadlines_that_cannot_be_kept():
    model, arguments = small("camera")
    with pytest.raises(ConfigError, match="expected at least 10 s"):
        remote_of(1, model, deadline_s=1.0)
    with remote_of(1, model, deadline_s=0.05, fallback=None) as remote, pytest.raises(DeadlineMissed):
        remote(*arguments)
    with remote_of(1, model, deadline_s=20.0) as remote, pytest.raises(ConfigError, match="by itself"):
        remote(*arguments, deadline_s=0.001)


def test_inputs_that_are_not_those_of_the_example():
    model, (image,) = small("camera")
    floats, arguments = small("resnet50")
    with remote_of(1, model) as remote, remote_of(1, floats) as other:
        with pytest.raises(ConfigError, match="uint8"):
            remote(image.float())
        with pytest.raises(ConfigError, match="shape"):
            remote(image[:, :-1])
        with pytest.raises(ConfigError, match="one input"):
            remote(image.repeat(2, 1, 1, 1))
        with pytest.raises(ConfigError, match="NaN"):
            other(torch.full_like(arguments[0], float("nan")))


def test_of_inputs_that_wait_only_the_newest_is_answered():
    model, (image,) = small("camera")
    with Serving(model, "127.0.0.1:0") as serving, connected(remote_of(serving, model)) as remote:
        entered, go_on = threading.Event(), threading.Event()
        run = serving._server._engine.run

        def held(works):
            entered.set()
            go_on.wait(30)
            return run(works)

        serving._server._engine.run = held
        first = remote.submit(image)
        assert entered.wait(30)
        waiting = [remote.submit(image // (number + 2)) for number in range(4)]
        for future in waiting[:-1]:
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(30)
        go_on.set()
        assert same(first.result(30).value, model(image))
        assert same(waiting[-1].result(30).value, model(image // 5))


def test_an_image_that_is_overwritten_after_it_was_handed_in():
    model, (image,) = small("camera")
    with Serving(model, "127.0.0.1:0") as serving, connected(remote_of(serving, model)) as remote:
        buffer = image.clone()
        future = remote.submit(buffer)
        buffer.zero_()
        assert same(future.result(30).value, model(image))


def test_requests_of_several_robots_are_computed_together():
    model, (image,) = small("camera")
    sizes = []
    settings = AnswererSettings(batch_wait_s=0.5)
    with Serving(model, "127.0.0.1:0", settings=settings) as serving:
        run = serving._server._engine.run

        def counted(works):
            sizes.append(len(works))
            return run(works)

        serving._server._engine.run = counted
        robots = [connected(remote_of(serving, model, name=f"robot-{number}")) for number in range(4)]
        for robot in robots:
            force(robot, offload(costs_of(model)))
        futures = [robot.submit(image // (number + 1)) for number, robot in enumerate(robots)]
        for number, future in enumerate(futures):
            assert same(future.result(30).value, model(image // (number + 1)))
        for robot in robots:
            robot.close()
    assert max(sizes) > 1 and sum(sizes) == 4


def test_parameters_that_change_while_they_are_served():
    net, arguments = SMALL["camera"]()
    model = capture(copy.deepcopy(net), arguments)
    trained = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.1)
    with Serving(model, "127.0.0.1:0", live=True) as serving:
        with connected(remote_of(serving, capture(copy.deepcopy(net), arguments))) as remote:
            before = remote(*arguments)
            serving.update(trained)
            after = remote(*arguments)
        assert (before.version, after.version) == (0, 1)
        assert same(before.value, net(*arguments)) and same(after.value, trained(*arguments))
        with pytest.raises(ConfigError, match=r"expected .* as in the model"):
            serving.update(torch.nn.Linear(2, 2))
    with Serving(model, "127.0.0.1:0") as serving, pytest.raises(ConfigError, match="live=True"):
        serving.update(trained)


def test_an_answer_of_a_live_server_is_never_half_the_robots():
    """The robot's parameters are old: it computes all of an answer, or nothing. Plans are made so, and refused else."""
    net, arguments = SMALL["camera"]()
    model = capture(copy.deepcopy(net), arguments)
    trained = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.1)
    with (
        Serving(capture(trained, arguments), "127.0.0.1:0", live=True) as serving,
        connected(remote_of(serving, model)) as remote,
    ):
        costs = costs_of(model)
        half = (np.arange(len(model.graph)) >= len(model.graph) // 2) & costs.mask(offload(costs).on_server)
        force(remote, costs.plan("half", half))
        answer = remote(*arguments)
        assert answer.by == "robot" and same(answer.value, net(*arguments))
        force(remote, offload(costs))
        answer = remote(*arguments)
        assert answer.by == "server" and same(answer.value, trained(*arguments))
        maker = replace(remote._maker, profile=slow(model, 0.05), live=True)
        plans = maker.planning().chooser.table.plans
        assert {plan.where for plan in plans} == {"robot", "server"}
