"""Streamed plans against a discrete-event simulation: jobs that wait for others, and servers of one job at a time."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np
import pytest

from rowcast.planning import LATENCY, CostModel, Plan, TensorCosts, overlap_bound_s, streamed, streamed_plan
from rowcast.planning.streamed import schedule
from test_planning_streamed import cuts, random_costs


@dataclass
class Job:
    """Work of one place; it waits for other jobs, and its result is ``after_s`` later where others can use it."""

    place: str
    seconds: float
    needs: list[int]
    after_s: float = 0.0


def ends(jobs: list[Job]) -> list[float]:
    """When the result of each job is there. A place does one job at a time, in the order in which they are given."""
    queues: dict[str, deque[int]] = defaultdict(deque)
    for number, job in enumerate(jobs):
        queues[job.place].append(number)
    missing = [len(job.needs) for job in jobs]
    wanted: dict[int, list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        for other in job.needs:
            wanted[other].append(number)
    found = [np.inf] * len(jobs)
    busy: set[str] = set()
    events: list[tuple[float, int, str]] = []

    def begin(now: float) -> None:
        for place, queue in queues.items():
            if queue and place not in busy and missing[queue[0]] == 0:
                number = queue.popleft()
                busy.add(place)
                heapq.heappush(events, (now + jobs[number].seconds, number, "free"))

    begin(0.0)
    while events:
        now, number, what = heapq.heappop(events)
        if what == "free":
            busy.discard(jobs[number].place)
            heapq.heappush(events, (now + jobs[number].after_s, number, "there"))
        else:
            found[number] = now
            for other in wanted[number]:
                missing[other] -= 1
        begin(now)
    return found


def jobs_of(costs: CostModel, plan: Plan) -> list[Job]:
    """A streamed plan as jobs: for each slab the robot's work, a transfer, the server's work, a transfer, decoding."""
    graph, profile, link = costs.graph, costs.profile, costs.link
    done, worked = schedule(graph, plan.slabs)
    codecs = {codec.codec: codec for codec in costs.tensors}
    names = [
        dict(zip(tensors, own or ("raw",) * len(tensors), strict=True))
        for tensors, own in ((plan.up, plan.up_codecs), (plan.down, plan.down_codecs))
    ]
    jobs: list[Job] = []
    first: set[tuple[int, int]] = set()
    for slab in range(plan.slabs):
        work = dict.fromkeys(("robot", "server", "decoding"), 0.0)
        bits, frames = [0.0, 0.0], [0, 0]
        for index, op in enumerate(graph.ops):
            share = worked[index, slab] - (worked[index, slab - 1] if slab else 0.0)
            side = "server" if index in plan.on_server else "robot"
            whole, floor, step = (
                (profile.server_s[index], profile.server_floor_s, profile.server_step_s)
                if side == "server"
                else (profile.robot_s[index], profile.robot_floor_s, profile.robot_step_s)
            )
            work[side] += max(whole * share, min(whole, floor)) if share > 0 else 0.0
            work[side] += step if 0 < share < 1 and whole else 0.0
            new = done[index, slab] - (done[index, slab - 1] if slab else 0.0)
            for way in (0, 1):
                if new <= 0 or index not in names[way]:
                    continue
                frames[way] += 1
                codec = codecs.get(names[way][index])
                bits[way] += op.bytes * new * (codec.ratio if codec else 1.0) * 8
                bits[way] += link.frame_s * (link.down_bps if way else link.up_bps) if (way, index) in first else 0.0
                first.add((way, index))
                if codec:
                    there = ("server", "decoding") if way else ("robot", "server")
                    encode, decode = op.bytes * new * codec.encode_s_per_byte, op.bytes * new * codec.decode_s_per_byte
                    work[there[0]] += encode / (codec.server_speed if there[0] == "server" else 1.0)
                    work[there[1]] += decode / (codec.server_speed if there[1] == "server" else 1.0)
        jobs.append(Job("robot", work["robot"], []))
        if frames[0]:
            jobs.append(Job("up", bits[0] / link.up_bps, [len(jobs) - 1], link.message_s * len(plan.up)))
            jobs.append(Job("server", work["server"], [len(jobs) - 1]))
        else:
            jobs.append(Job("server", work["server"], []))
        if frames[1]:
            jobs.append(Job("down", bits[1] / link.down_bps, [len(jobs) - 1], link.message_s * len(plan.down)))
            jobs.append(Job("decoding", work["decoding"], [len(jobs) - 1]))
    return jobs


def with_codecs(seed: int) -> CostModel:
    costs, random = random_costs(seed), np.random.default_rng(seed)
    tensors = tuple(
        TensorCosts(name, ratio, *random.uniform(0, 6e-7, 2).tolist(), server_speed=float(random.uniform(1, 5)))
        for name, ratio in (("deflate", 0.6), ("half", 0.5))
    )
    return dataclasses.replace(costs, tensors=tensors)


@pytest.mark.parametrize("block", range(3))
def test_a_streamed_plan_ends_when_its_jobs_do(block: int) -> None:
    """60 random models, with and without codecs, all cuts; also the plan that the planner chooses."""
    coded = 0
    for seed in range(20 * block, 20 * block + 20):
        for costs in (random_costs(seed), with_codecs(seed)):
            assert costs.link.goodput == 1.0
            plans = [streamed_plan(costs, costs.mask(on), slabs) for slabs in (2, 5) for on in cuts(costs.graph)]
            best = streamed(costs, LATENCY)
            for plan in [*plans, *([best] if best.slabs > 1 else [])]:
                jobs = jobs_of(costs, plan)
                assert plan.latency_s == pytest.approx(max(ends(jobs))), (seed, plan)
                for place, seconds in (("server", plan.server_s), ("up", plan.up_s), ("down", plan.down_s)):
                    own = [job for job in jobs if job.place == place]
                    fixed = own[0].after_s if own and place != "server" else 0.0
                    assert sum(job.seconds for job in own) + fixed == pytest.approx(seconds)
                coded += bool(plan.up_codecs)
    assert coded > 20


def linear_programme(amounts: np.ndarray) -> float:
    """``min max(amounts.T @ w)`` over shares ``w`` of cuts, float64 [cuts, 3]: all corners of the feasible region.

    In a corner at most three cuts have a share, and as many of the three sums are equal to the maximum.
    """
    best = np.inf
    for count in (1, 2, 3):
        for cuts_of in itertools.combinations(range(len(amounts)), count):
            own = amounts[list(cuts_of)]
            for busy in itertools.combinations(range(3), count):
                # Shares and the maximum: sums of the busy ones equal it, shares add up to 1.
                matrix = np.block([[own[:, list(busy)].T, -np.ones((count, 1))], [np.ones((1, count)), 0.0]])
                if abs(np.linalg.det(matrix)) < 1e-14:
                    continue
                shares = np.linalg.solve(matrix, [*[0.0] * count, 1.0])[:count]
                if (shares >= -1e-12).all():
                    best = min(best, float((shares @ own).max()))
    return best


def test_the_bound_of_overlapping_work_is_that_of_the_linear_programme() -> None:
    """On 15 random models; no streamed plan is below it, with codecs and without."""
    for seed in range(15):
        for costs in (random_costs(seed, floors=False), with_codecs(seed)):
            bound = overlap_bound_s(costs)
            profile, least = costs.profile, costs.least_link
            rows = []
            for on_server in cuts(costs.graph):
                mask = costs.mask(on_server)
                up = costs.crossings(mask)[0]
                rows.append([profile.robot_s[~mask].sum(), least.up.link_s[up].sum(), profile.server_s[mask].sum()])
            assert bound == pytest.approx(linear_programme(np.array(rows)))
            assert streamed(costs).latency_s >= bound - 1e-9
