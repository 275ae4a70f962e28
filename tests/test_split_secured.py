"""Split inference with certificates: the same answers, under the name in the certificate, until it is revoked."""

from __future__ import annotations

import pytest
import torch

from captured_models import small
from live import eventually
from rowcast.config import AskerSettings
from rowcast.drivers.sockets import server
from rowcast.errors import AuthenticationFailed, CertificateRevoked, ConfigError
from rowcast.graphs import Profile
from rowcast.split import Remote, RemoteOptions, Serving
from team_files import file_of, new_team


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    return new_team(tmp_path_factory.mktemp("split") / "team", "robot", "other")


@pytest.fixture(scope="module")
def model():
    return small("camera")


def remote_of(serving, captured, team, name="robot", file="robot"):
    times = [float(bool(op.inputs)) for op in captured.graph.ops]
    profile = Profile(torch.tensor(times).double().numpy(), torch.tensor(times).double().numpy() * 1e-6)
    options = RemoteOptions(profile=profile, codecs=(), settings=AskerSettings(connect_limit_s=5.0))
    address = f"127.0.0.1:{serving.port}"
    return Remote(address, captured, name=name, team=file_of(team, file), fallback=None, options=options)


def test_a_robot_is_answered_until_it_is_revoked(team, model, monkeypatch):
    monkeypatch.setattr(server, "LOOK_S", 0.05)
    captured, arguments = model
    with Serving(captured, "127.0.0.1:0", team=team.path) as serving, remote_of(serving, captured, team) as remote:
        answer = remote(*arguments)
        assert answer.by == "server" and torch.allclose(answer.value, captured(*arguments), rtol=1e-5, atol=1e-5)
        assert serving.status().robots == ("robot",)
        team.revoke("robot")
        eventually(lambda: serving.status().robots == ())
        with pytest.raises(CertificateRevoked, match="the certificate of 'robot' was revoked"):
            eventually(lambda: remote._thread.node.failure is not None)
            remote(*arguments)


def test_a_robot_asks_under_its_own_name_only(team, model, monkeypatch):
    captured, arguments = model
    with Serving(captured, "127.0.0.1:0", team=team.path) as serving:
        with pytest.raises(ConfigError, match="it is that of 'other', and this worker is 'robot'"):
            remote_of(serving, captured, team, file="other")
        monkeypatch.setattr("rowcast.drivers.sockets.secured.TeamGuest.name", property(lambda self: "robot"))
        with (
            remote_of(serving, captured, team, file="other") as remote,
            pytest.raises(AuthenticationFailed, match="its certificate is that of 'other', and it says that it is"),
        ):
            remote(*arguments)
