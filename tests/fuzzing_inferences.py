"""A fuzzer of inferences: a robot and a server of which one, or both, say things that are nearly right.

What travels on the link of one robot is mutated on the way, fields or bytes of a message, with the checksums made right
again. Another robot is served beside it. Whatever comes, the errors of the protocol end a connection and nothing else:
each input has its outcome, the other robot is served as ever, and what is kept of the robot stays within its bounds.

Everything follows from the seed. ``python tests/fuzzing_inferences.py`` (``make fuzz``), the suite takes a few.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections import Counter
from functools import partial

import numpy as np

from fuzzing import Mutator, fitting
from inferences import MIDDLE, OFFLOAD, ONE, TWO, ByteSimulation, World, costs_of, model_of, plan_of, same, truth
from raw_frames import framed
from rowcast.links import Trace
from rowcast.planning import TensorCosts
from rowcast.wire import FrameDecoder, RowLimits

MODEL = model_of()
LIMITS = RowLimits(MODEL.most_rows)
REQUESTS = 3
#: Where operators are, and in how many slabs.
PLANS = ((OFFLOAD, 1), (OFFLOAD, 4), (ONE, 3), (TWO, 12), (MIDDLE, 1))
INPUTS, PERIOD_S = 30, 0.06


class TensorMutator(Mutator):
    """Mutates rows of tensors instead of rows of a layout."""

    def _rows(self):
        first = self.chance.randrange(LIMITS.rows)
        rows = range(first, self.chance.randrange(first + 1, LIMITS.rows + 1))
        return np.array(self.chance.choice((rows, rows[::2])), dtype=np.int64)

    def _consistent(self, message, changes):
        """Row frames with a payload of the length that their rows ask for, more often than not."""
        changed = dataclasses.replace(message, **fitting(changes))
        if "payload" in changes or self.chance.random() < 0.2:
            return changed
        tensor = MODEL.tensor(self.chance.randrange(len(MODEL.graph)))
        content = self.chance.randbytes(tensor.nbytes // tensor.rows * len(changed.rows))
        return dataclasses.replace(changed, payload=np.frombuffer(content, dtype=np.uint8))


class Attacked:
    """A world in which the frames of the robot ``hit`` are mutated.

    Attributes:
        counts: frames that were mutated, by direction, and errors that came of them.
    """

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.mutator = TensorMutator(self.chance)
        self.counts = Counter()
        self.share = self.chance.choice((0.02, 0.1, 0.3))
        codecs = (TensorCosts("deflate", 0.7, ops=frozenset({0})),) if self.chance.random() < 0.5 else ()
        costs = costs_of(MODEL, tensors=codecs)
        secret = self.chance.choice((None, b"the shared secret"))
        world = self.world = World(
            MODEL, costs, None, kind=ByteSimulation, seed=seed, secret=secret, requests_per_robot=REQUESTS
        )
        for name in ("hit", "other"):
            world.plan = plan_of(costs, *self.chance.choice(PLANS))
            fallback = self.chance.choice(("model", "none")) if name == "hit" else "model"
            deadline_s = self.chance.choice((None, 0.2)) if name == "hit" else None
            in_flight = self.chance.randint(1, REQUESTS)
            world.add(
                name, Trace.constant(8e6), secret=secret, fallback=fallback, deadline_s=deadline_s, in_flight=in_flight
            )
            for number in range(INPUTS):
                world.at(0.1 + number * PERIOD_S, world.ask, name)
        robot = world.simulation.robots["hit"]
        for direction, pipe in (("up", robot.up), ("down", robot.down)):
            pipe.deliver = partial(self._deliver, robot, direction, pipe.deliver)

    def _deliver(self, robot, direction, deliver, data):
        """The bytes of one frame, or a part of it where the link was cut."""
        link = robot.server_link if direction == "up" else robot.worker_link
        if self.world.simulation.clock.now < 0.1 + INPUTS * PERIOD_S and self.chance.random() < self.share:
            reader = FrameDecoder()
            reader.frames, reader.trusted = int.from_bytes(data[12:14], "big"), True
            reader.streams = dict.fromkeys(range(256), LIMITS)
            for message in reader.feed(data):
                kind, body = self.mutator.frame(message)
                stream = getattr(message, "stream", 0) if kind == message.KIND and body else self.mutator.stream()
                stream = stream if kind == 5 else 0
                self.counts[direction] += 1
                data = framed(kind, body, self.mutator.version(), link.decoder.frames, stream=stream)
        deliver(data)

    def run(self):
        """To the end; gives what was mutated and what came of it."""
        world, simulation = self.world, self.world.simulation
        world.run(0.1 + INPUTS * PERIOD_S)
        self._bounded()
        world.run(40.0)
        self._bounded()
        other = world.check("other").values()
        assert {outcome.by for outcome in other if not outcome.superseded} <= {"server", "both"}, "the other one"
        ends = [record for record in world.journals["other"].records if record["event"] == "link_down"]
        assert not ends, ends
        self._outcomes()
        assert world.engine.held == set() or simulation.server.robots["hit"].tasks
        for name in ("hit", "server"):
            for record in world.journals[name].records:
                if record["event"] == "error":
                    self.counts[name, record["error"]] += 1
        return self.counts

    def _outcomes(self):
        """Each input has one; what the robot computed by itself is right."""
        robot, asked = self.world.simulation.robots["hit"], self.world.asked["hit"]
        tickets = [outcome.ticket for outcome in robot.outcomes]
        waiting = {one.ticket for one in [*robot.node.active.values(), *robot.node.waiting]}
        assert len(set(tickets)) == len(tickets) and not waiting & set(tickets)
        # Without fallback and deadline it may wait for a server for ever, if the answer was mutated into another one's.
        assert set(tickets) | waiting == set(asked)
        if robot.node.has_fallback or robot.node.failure is not None:
            assert not waiting, waiting
        for outcome in robot.outcomes:
            self.counts["by", outcome.by] += 1
            if outcome.by == "robot":
                assert same(outcome.value, truth(MODEL, asked[outcome.ticket]))
            if robot.node.has_fallback and robot.node.failure is None:
                assert outcome.error is None or outcome.superseded, outcome

    def _bounded(self):
        server, whole = self.world.simulation.server, sum(tensor.nbytes for tensor in MODEL.tensors)
        for robot in server.robots.values():
            assert len(robot.tasks) <= REQUESTS
            kept = sum(len(piece.payload) for task in robot.tasks.values() for piece in task.pieces)
            sent = sum(len(one.payload) for one in robot.out if hasattr(one, "payload"))
            assert max(kept, sent) <= 2 * REQUESTS * whole
        assert len(self.world.simulation.robots["hit"].node._exchanges.all()) <= REQUESTS


def fuzz(seeds):
    """Worlds with these seeds; what was mutated, and what came of it."""
    counts = Counter()
    for seed in seeds:
        try:
            counts += Attacked(seed).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun, seed, counts = time.monotonic(), options.seed, Counter()
    while time.monotonic() < begun + options.seconds:
        counts += fuzz([seed])
        seed += 1
    mutated = counts["up"] + counts["down"]
    for what, count in sorted(counts.items(), key=str):
        print(f"{what!s:40} {count:>10,}")
    print(f"{mutated:,} mutated frames of {seed - options.seed} worlds in {time.monotonic() - begun:.0f} s")
    if not mutated:
        sys.exit("expected some mutated frames")


if __name__ == "__main__":
    main()
