"""Teams in virtual time, and the books that every run must keep; shared by the tests of the nodes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from rowcast.durability import State, capture, restore
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.testing import ScriptedWorker
from rowcast.training.member import MemberState
from rowcast.wire import StateEnd

#: 27 rows and 63 elements: a tensor of several rows, a bias, a scalar.
LAYOUT = Layout.from_shapes([("weight", (24, 2)), ("bias", (14,)), ("scale", ())], small_tensor=1)

POLICIES = ["bsp", "ssp:1", "ssp:3", "asp", "flown:2", "rog:1", "rog:2", "rog:4", "rog:8", "rowcast:1"]
POLICIES += ["rowcast:3", "rowcast:8", "rowcast:2?elastic=off", "rowcast:8?auto=on"]
COMMON = ["rowcast:1?pulls=common", "rowcast:3?pulls=common", "rowcast:8?pulls=common&refine=off"]
COMMON += ["rowcast:2?elastic=off&pulls=common"]
POLICIES += COMMON
POLICIES += ["sparta?share=0.05", "sparta?share=0.3", "powersgd:1", "powersgd:2"]
CODECS = ["raw", "half", "onebit"]


def quadratic(seed, layout=LAYOUT, rate=0.1):
    """The gradient step of the loss |x - target|^2 / 2 of one worker, with a target of its own."""
    target = np.random.default_rng(seed).standard_normal(layout.elements).astype(np.float32)
    return lambda n, x: np.float32(rate) * (x - target)


def noise(seed, layout=LAYOUT, rate=0.1):
    """Updates that do not depend on the parameters, a new one for each iteration."""
    return lambda n, x: (
        rate * np.random.default_rng((seed, n)).standard_normal(layout.elements).astype(np.float32)
    ).astype(np.float32)


def start_of(layout=LAYOUT):
    return np.random.default_rng(99).standard_normal(layout.elements).astype(np.float32)


def worker(name, *, iterations=6, seed=None, layout=LAYOUT, **more):
    """A scripted worker that starts with the team's initial parameters."""
    more.setdefault("initial", start_of(layout))
    more.setdefault("gradient", noise(ord(name[-1]) if seed is None else seed, layout))
    return ScriptedWorker(name, iterations=iterations, **more)


@st.composite
def links(draw):
    """The rate of a link: constant, or a looping trace with stretches in which nothing passes."""
    if draw(st.booleans()):
        return draw(st.sampled_from([2e4, 1e5, 1e6]))
    steps = draw(st.lists(st.sampled_from([0.0, 3e4, 2e5, 1e6]), min_size=2, max_size=5))
    lengths = draw(st.lists(st.sampled_from([0.05, 0.3, 1.0]), min_size=len(steps), max_size=len(steps)))
    if not any(steps):
        steps[0] = 1e5
    times = np.concatenate([[0.0], np.cumsum(lengths)])
    return Trace(times[:-1], np.array(steps), "drawn", duration_s=float(times[-1]))


@st.composite
def members(draw, count=None, iterations=None):
    """Scripts of two to four workers."""
    count = count or draw(st.integers(2, 4))
    return [
        worker(
            f"robot{i}",
            iterations=iterations or draw(st.integers(1, 8)),
            compute_s=draw(st.sampled_from([0.01, 0.1, 0.4])),
            rate_bps=draw(links()),
            delay_s=draw(st.sampled_from([0.0, 0.004, 0.05])),
        )
        for i in range(count)
    ]


@st.composite
def policies(draw, families=POLICIES, codecs=CODECS):
    family = draw(st.sampled_from(families))
    return f"{family}{'&' if '?' in family else '?'}codec={draw(st.sampled_from(codecs))}"


@st.composite
def outages(draw, names, most=6, longest=3.0):
    """Cuts: (time, name, seconds until the link is back)."""
    return draw(
        st.lists(
            st.tuples(st.floats(0.0, 6.0), st.sampled_from(names), st.sampled_from([0.0, 0.2, longest])),
            max_size=most,
        )
    )


def names_of(scripts):
    return [script.name for script in scripts]


class Books:
    """What was lost on purpose, so that the rest must be there (invariant 5)."""

    def __init__(self, team, initial=None):
        self.team = team
        self.initial = (start_of(team.layout) if initial is None else initial).astype(np.float64)
        self.lost = np.zeros(team.layout.elements)
        self._brought = np.zeros(team.layout.elements)  # what was pending when the server began, float64 [elements]
        self._gone_lives = set()

    def kill(self, name):
        self.team.kill(name)
        self.lost += self.undelivered(name)

    def restart_server(self):
        """Begin a new account: what only the old server knew is gone with it, all else must be there in the end.

        That is the replica of whoever brings the parameters to the new one, and what each worker has pending or does
        not know to have arrived: it counts once more, for the new server has not heard of it.
        """
        team = self.team
        team.restart_server()
        self._gone_lives |= {one.node.server_life for one in team.workers.values()}
        living = [name for name, one in team.workers.items() if not one.killed]
        self._brought = sum(self.undelivered(name) for name in living) - sum(team.computed.values())
        self.lost = np.zeros(team.layout.elements)
        receive = team.server.receive

        def watch(now, link, message):
            seeding = [
                one for one in team.server.members.values() if one.link is link and one.state is MemberState.SEEDING
            ]
            receive(now, link, message)
            if seeding and isinstance(message, StateEnd):
                self.initial = team.workers[seeding[0].name].node.replica.astype(np.float64)

        team.server.receive = watch

    def undelivered(self, name):
        """What a worker computed and the server that there is now has not applied, float64 [elements]."""
        node = self.team.workers[name].node
        if not node.server_life or node.server_life not in self._gone_lives:
            return self.team.undelivered(name)
        if node.recovery is not None:
            return node.recovery.pending_if(None)
        layout, pending = self.team.layout, node.pending.copy()
        for message in node.outbox.unacknowledged():
            if not message.absolute:
                message.code.add(layout, message.payload, message.rows, pending, 1.0)
        return pending.astype(np.float64)

    def check(self):
        """Everything computed is delivered, pending or on its way; every replica is what it should be."""
        team = self.team
        if team.server.parameters is None:
            return
        living = [name for name, one in team.workers.items() if not one.killed]
        there = sum(self.undelivered(name) for name in living)
        delivered = self.initial - team.server.parameters
        computed = sum(team.computed.values()) + self._brought
        books = delivered + there + self.lost
        if team.server.surplus is not None:  # rows counted for more than was sent; known row by row
            starts = team.layout.offsets[:-1]
            computed = np.add.reduceat(computed, starts) + team.server.surplus
            books = np.add.reduceat(books, starts)
        np.testing.assert_allclose(computed, books, rtol=0, atol=2e-4)
        assert team.imbalance() <= 2e-4

    def check_at(self, *times):
        for time in times:
            self.team.at(time, self.check)


def finished(team, until=2000.0):
    """Run to the end; everybody must get there without a complaint."""
    team.run(until)
    assert not team.failures, team.failures
    assert team.finished, (team.now, {name: (w.node.state, w.node.iteration) for name, w in team.workers.items()})


def replicas_agree(team, atol=2e-4):
    """After draining, every replica is the server's model (invariant 2)."""
    for name, one in team.workers.items():
        if not one.killed and events(team, name, "end")[-1]["cause"] == "finished":
            np.testing.assert_allclose(one.node.replica, team.server.parameters, rtol=0, atol=atol, err_msg=name)


def events(team, node, event):
    return [record for record in team.journals[node].records if record["event"] == event]


def captured(team):
    """A server of a :class:`DurableTeam` as it comes back: nothing of it is lost when it is captured once more."""
    externals = {"journal": team.server.journal, "drawn": team._drawn}
    state = capture(team.server, externals)
    again = restore(State(state.table, {name: each.copy() for name, each in state.arrays.items()}), externals)
    twice = capture(again, externals)
    assert state.arrays.keys() == twice.arrays.keys()
    for name, array in state.arrays.items():
        np.testing.assert_array_equal(array, twice.arrays[name])
    return again
