"""A rule is one file and one registration: one of our own in a whole team, on the nodes as they are."""

from __future__ import annotations

import numpy as np
import pytest

from registries import forget_afterwards
from rowcast.errors import ConfigError
from rowcast.sync import Family, Policy, parse_policy, register
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training import ServerNode, rules
from rowcast.training.rules import ServerRule, WorkerRule, server_rule, worker_rule
from teams import LAYOUT


class OneShot(ServerRule):
    def expect(self, member, iteration):
        """Nobody tells of an iteration before the last one."""


@pytest.fixture
def one_shot(monkeypatch):
    forget_afterwards(monkeypatch)
    rules.register("one-shot", OneShot, WorkerRule)
    register(Family("oneshot", "All at the end.", lambda name, slack: Policy(name, None, 1.0, rule="one-shot")))


def test_a_rule_of_ones_own_trains_a_team_and_loses_nothing_when_links_are_cut(one_shot):
    def gradient(step, parameters):
        return np.full(LAYOUT.elements, 2.0, dtype=np.float32)

    scripts = [ScriptedWorker(f"robot{k}", gradient, iterations=10, compute_s=0.1 * (k + 1)) for k in range(3)]
    team = VirtualTeam(LAYOUT, "oneshot", scripts, seed=1)
    for time in (0.7, 1.2, 2.1):
        for name in ("robot0", "robot2"):
            team.at(time, lambda name=name: team.cut(name, 0.2))
    team.run()
    assert team.finished and not team.failures and team.imbalance() == 0
    computed = sum(team.computed.values())
    assert computed.min() >= 20.0 - 1e-4  # ten times 2, by three robots that count a third each or more
    assert team.server.parameters == pytest.approx(-computed, abs=1e-4)
    pushes = [record for record in team.journals["server"].records if record["event"] in ("push", "gate")]
    assert pushes == []


def test_rules_are_known_by_name():
    for name in ("phased", "slotted", "streamed"):
        assert issubclass(server_rule(name), ServerRule) and issubclass(worker_rule(name), WorkerRule)
    with pytest.raises(ConfigError, match="this name is taken, by PhasedRule"):
        rules.register("phased", OneShot, WorkerRule)
    with pytest.raises(ConfigError, match="unknown rule 'streamd'; did you mean 'streamed'"):
        ServerNode(Policy("x", 1, 1.0, rule="streamd"))
    assert parse_policy("rowcast").rule == "streamed" and parse_policy("flown:2").rule == "slotted"


def test_a_worker_without_the_rule_of_its_team_says_so(one_shot, monkeypatch):
    """The family is known on both ends, and the rule that it names at the server only."""
    script = ScriptedWorker("robot0", lambda step, parameters: parameters, iterations=1)
    team = VirtualTeam(LAYOUT, "oneshot", [script], seed=1)
    monkeypatch.delitem(rules._RULES, "one-shot")
    team.run()
    assert "unknown rule 'one-shot'" in str(team.failures["robot0"])
    assert "install the same version of rowcast on both" in str(team.failures["robot0"])
