"""The schema of the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["ALWAYS", "EVENTS", "Event", "Record"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """A record, for whoever is called with it.

    Attributes:
        t: time (s, the node's monotonic clock).
        node: name of the node that recorded it.
        name: which event, as in :data:`EVENTS`.
        fields: its fields by name, as in :data:`EVENTS`; one that the node had nothing for is missing or ``None``.
    """

    t: float
    node: str
    name: str
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, record: Record) -> Event:
        """The event that a record is about; the record stays as it is."""
        fields = {name: value for name, value in record.items() if name not in ALWAYS}
        return cls(record["t"], record["node"], record["event"], MappingProxyType(fields))

    @property
    def cause(self) -> str:
        """Why it happened: its field ``cause`` or ``why``; empty where it has none."""
        return str(self.fields.get("cause") or self.fields.get("why") or "")


#: Every event and its fields. ``t`` (s, the node's monotonic clock), ``node`` and ``event`` are in all.
EVENTS: Mapping[str, Mapping[str, str]] = {
    "start": {
        "role": "'worker' or 'server'",
        "version": "version of the rowcast package",
        "policy": "policy text, or null where it is learnt at joining",
        "settings": "the node's settings, by name",
    },
    "link_up": {
        "peer": "who is at the other end: a worker's name, or the server's address",
        "congestion_control": "TCP congestion control in force, or null where there is none",
        "shaped_by": "name of the bandwidth trace under this link, or null",
    },
    "link_down": {"peer": "who was at the other end", "cause": "why the link ended"},
    "join": {
        "peer": "name of the worker",
        "epoch": "membership epoch after the join",
        "iteration": "iteration at which the worker starts",
        "how": "'seed', 'equal', 'receive' or 'resume'",
        "members": "number of workers that the gate counts, after the join",
    },
    "leave": {
        "peer": "name of the worker",
        "epoch": "membership epoch after the departure",
        "cause": "why it left",
        "members": "number of workers that the gate counts, after the departure",
    },
    "restarted": {
        "inputs": "inputs that were taken from the log behind the snapshot",
        "cut_bytes": "bytes at the end of the log that had not been committed; nothing that follows from them was told",
        "members": "workers that the server knows again",
        "forgotten": "workers of which it is not known what they were sent: they join anew and receive the parameters",
    },
    "standby": {
        "what": "'attached' (it has all that anybody is told), 'lost', 'alone' (the server goes on without), "
        "'took over', or 'stepped down' (another server leads, or may)",
        "peer": "address of the standby, or in its own journal of the server that it follows; or empty",
        "term": "term of the team from then on",
        "cause": "why, where it was lost or stepped down; else empty",
        "seconds": "from the silence of the other server until this one led; else 0",
    },
    "absent": {
        "peer": "name of a worker for which nobody waits any longer: its link is down, or delivers too little",
        "epoch": "membership epoch after it left the gate",
        "silent_s": "seconds since its link was lost, or since its oldest row became newer",
        "members": "number of workers that the gate still counts",
    },
    "slack": {
        "slack": "iterations that a worker may be ahead of its horizon from now on",
        "before": "the same up to now",
        "why": "'stall' (raised), 'divergence', 'progress' or 'calm', nobody stalls any longer (lowered)",
        "stall_share": "time that workers waited at the gate since the last look, share of all of their time",
        "divergence": "what a replica lacks, in iterations' worth of the team's updates",
        "usual": "its level so far",
        "progress": "size of the updates, share of what it was when it was largest",
    },
    "outer_lr": {
        "outer_lr": "factor on what workers contribute from now on",
        "before": "the same up to now",
        "alignment": "of the last two windows of movement, at most 1; 0 is what chance and the inner momentum make",
    },
    "return": {
        "peer": "name of a worker that others wait for again",
        "epoch": "membership epoch after its return",
        "iteration": "iteration that it counts from",
        "members": "number of workers that the gate counts",
    },
    "clipped": {
        "peer": "name of a worker whose updates were scaled down (server with a guard)",
        "iteration": "iteration of the worker",
        "rows": "rows that were scaled down in it",
        "largest": "the largest factor by which one was too large",
    },
    "quarantined": {
        "peer": "name of a worker whose updates do not count any longer, and whose last ones are taken back",
        "iteration": "iteration of the worker",
        "cause": "'norm' (its updates stay too large), 'direction' (they point away from those of the others) or "
        "'ascent' (they go along with the movement of the model, which those of the others resist)",
        "cosine": "usual cosine of its updates with what the others sent lately",
        "norm": "length of what is taken back",
    },
    "released": {
        "peer": "name of a worker whose updates count again",
        "iteration": "iteration of the worker",
        "after": "its iterations since it was put aside",
    },
    "push": {
        "peer": "name of the worker",
        "iteration": "iteration of the worker",
        "rows": "rows received in this push",
        "zero_rows": "rows advanced without payload, because nothing was pending in them",
        "bytes": "row frames received, headers included",
        "quota_s": "seconds until the quota was acknowledged (worker's measure), or null where rows are streamed",
    },
    "gate": {
        "peer": "name of the worker that may go on",
        "iteration": "iteration it has finished",
        "oldest": "min over all gated workers and rows of the version",
        "held_s": "seconds the gate held this worker",
        "mta_time_s": "MTA time handed out with the permission",
        "staleness": "iterations by which this worker is behind the fastest",
    },
    "slot": {
        "peer": "name of the worker that may transfer its whole model now (policies with slots)",
        "iteration": "iteration that it pushes, or whose pull it is",
        "direction": "'push' or 'pull'",
        "waited_s": "seconds since it asked",
        "limit_s": "a transfer that is expected to take longer was kept waiting, or null before the first transfer",
    },
    "waiting": {
        "peer": "name of the worker that waits",
        "iteration": "iteration it has finished",
        "for": "names of those it waits for, with the reason",
        "waited_s": "seconds waited so far",
    },
    "step": {
        "iteration": "iteration finished by this step",
        "compute_s": "seconds from the end of the step before to the update of this one, starve_s excluded",
        "overlap_s": "those of compute_s in which rows may have travelled as well (policies that stream)",
        "communicate_s": "seconds of push and pull, gate and slots excluded",
        "stall_s": "seconds held at the gate or waiting for a slot, as measured by the server",
        "push_rows": "rows sent with payload",
        "push_bytes": "row frames sent, headers included",
        "push_share": "share of the layout's rows that were sent or were empty",
        "pull_rows": "rows received",
        "pull_bytes": "row frames received, headers included",
        "quota_s": "seconds until the quota of this push was acknowledged, or null",
        "mta_time_s": "MTA time in force during the push",
        "rate_bps": "measured delivery rate of the push direction, bit/s",
        "staleness": "iterations by which this worker is behind the fastest",
        "skipped": "true when the step made no contribution (NaN, Inf, skipped by a gradient scaler)",
        "own_s": "seconds that the training thread has spent in Rowcast since the step before, waiting and the step of "
        "the inner optimizer excluded; not in virtual time, where that takes none",
        "starve_s": "seconds in which the training loop waited for data; this field and those down to "
        "exposed_bytes only with a stream",
        "samples": "samples that it was computed on, those of others included",
        "queued": "the most samples that waited at one time since the batch before",
        "dropped": "samples of the stream that nobody was trained on since the batch before",
        "age_s": "mean seconds from the arrival of a sample until its batch began",
        "exposed": "raw samples given to other workers, each as often as somebody got it",
        "exposed_bytes": "bytes of those",
        "floats": "numbers of its gradient that would be sent, an index counted as one; 0 where it was not finite; "
        "this field and those below only with top-k",
        "gradient_floats": "numbers of the whole gradient, or 0 likewise",
        "compressed": "whether only the largest elements of the gradient are used, with what was left before",
    },
    "served": {
        "peer": "who is at the other end: a robot's name, or 'server'",
        "live": "whether the parameters change while they are served",
        "version": "of the parameters",
        "forward_s": "seconds of the whole model on the server, for one input",
    },
    "inference": {
        "ticket": "counts the inputs of this robot",
        "by": "'robot', 'server' or 'both' computed the answer; empty where there is none",
        "plan": "how it was begun: 'local', 'offload', 'pipeline' or 'streamed', or null",
        "slabs": "groups of rows of that plan, or null",
        "predicted_s": "seconds that the plan was predicted to take at the lowest rate that it is for, or null",
        "latency_s": "seconds from the input to the answer, or to giving up",
        "deadline_s": "seconds after the input at which the answer was wanted, or null",
        "missed": "whether it came later, or not at all",
        "exact": "whether it is that of the undivided model",
        "superseded": "whether a newer input took its place before its turn came",
        "robot_s": "seconds that the robot computed for it",
        "sending_s": "seconds that rows of it were on their way to the server",
        "server_s": "seconds that the server computed for it",
        "queued_s": "seconds that it waited for others at the server",
        "up_bytes": "row frames sent for it, headers included",
        "down_bytes": "row frames received for it, headers included",
        "rate_bps": "rate up that is expected, bit/s",
        "version": "of the server's parameters, or 0",
        "joules": "energy of the robot by the table of power states, J; the server's is excluded",
        "error": "why there is no answer, or null",
    },
    "answer": {
        "peer": "name of the robot",
        "number": "of its request",
        "batch": "requests that were computed together with it, itself included",
        "compute_s": "seconds of computation, shared by those",
        "queued_s": "seconds that it waited for others, from its last row on",
        "bytes": "payload that came for it",
        "version": "of the parameters that it was computed with",
        "dropped": "whether the robot did not want it any more",
    },
    "busy": {
        "peer": "name of the robot that was turned away",
        "number": "of its request",
        "wait_s": "seconds after which it may ask again",
        "cause": "why",
    },
    "metric": {
        "iteration": "iteration at which it was measured",
        "name": "for example 'accuracy' or 'loss'",
        "value": "the value",
    },
    "task": {
        "iteration": "iterations finished when it was told",
        "what": "what happened in the task, in a word or two of its own: the same for all events of a kind",
        "detail": "what differs from one to the next",
    },
    "told": {
        "peer": "name of a robot, of which this is written every watch_every_s (server that is watched)",
        "state": "what the server does for it, see rowcast.training.member.MemberState",
        "iteration": "newest iteration whose push has ended",
        "staleness": "iterations by which it is behind the fastest",
        "waited_s": "seconds for which it has been held so far, or 0",
        "down_bps": "measured delivery rate of rows to the robot, bit/s, or null before the first",
        "down_bytes": "row frames sent to the robot so far, headers included, those sent again as well; begins anew "
        "where the robot does, or the server",
        "in_flight_bytes": "those of them that were sent and are not acknowledged",
        "metrics": "what it reported last, by name; rate_bps is its own measured delivery rate, bit/s",
    },
    "layers": {
        "names": "of the layers in the events 'rows' that follow: a tensor, or several neighbours",
        "rows": "rows that each of them has",
    },
    "rows": {
        "peer": "name of a robot, of which this is written every watch_every_s (server that is watched)",
        "iteration": "newest iteration of which anything has arrived from it",
        "mean_age": "of each layer, mean over its rows of the iterations by which what has arrived of them is behind "
        "the fastest robot",
        "oldest_age": "the same of the oldest row",
        "pending": "of each layer, share of its rows of which that iteration has not arrived",
    },
    "resume": {
        "peer": "who came back",
        "delivered": "frames that had arrived before the link was lost",
        "restored": "frames that had not, and went back to pending or owed",
    },
    "recovered": {
        "iteration": "iteration from which a worker goes on whose process was killed",
        "how": "'resumed' or 'joined': whether the server knew its session",
        "age_s": "seconds since the picture was taken from which it goes on",
        "lost_iterations": "iterations behind the picture: what of them was not delivered is lost",
        "lost_rows": "rows of which a part of what the code had left is lost as well",
        "lost": "sum of absolute values of what is lost, at most",
        "cause": "why all that was pending is lost, or empty",
    },
    "drained": {
        "peer": "name of the worker, or 'server'",
        "iteration": "its last iteration",
        "frames_sent": "row frames sent in this session",
        "frames_applied": "row frames of the peer applied in this session",
    },
    "dropped": {
        "peer": "whose it was",
        "what": "what was dropped so that memory stays bounded",
        "why": "the limit",
    },
    "error": {"peer": "who caused it", "error": "class of the error", "message": "its text"},
    "repeated": {
        "error": "as in 'error'",
        "count": "how often it happened again since it was last told",
        "over_s": "seconds since then",
        "peers": "how many addresses it came from",
        "peer": "one of them",
        "message": "text of the last one",
    },
    "gap": {
        "records": "records before this one that could not be written",
        "since": "t of the first of them",
        "why": "what the system said",
    },
    "end": {"cause": "why the node stopped"},
}

#: The fields of every record.
ALWAYS = frozenset({"t", "node", "event"})
