"""Mutated frames through decoder, server and worker: the 20,000 inputs of the suite; ``make fuzz`` takes millions."""

from __future__ import annotations

import sys

import pytest

import bitflips
import fuzzing

ENDS = {"whole", "taken", "RemoteProtocolError", "StreamDamaged", "VersionMismatch", "LinkLost"}


def test_nothing_but_the_errors_of_the_protocol_comes_out():
    counts = fuzzing.fuzz(seed=0, inputs=20_000)
    assert sum(counts.values()) >= 20_000
    assert {ended for _, ended in counts} == ENDS
    for target in ("decoder", "server", "worker"):
        assert sum(count for (other, _), count in counts.items() if other == target) > 2000
    # What was mutated is often taken: the fuzzer gets beyond the checksums and into the conversation.
    assert counts["server", "taken"] > 2000 and counts["worker", "taken"] > 2000
    for target in ("server", "worker"):
        assert counts[target, "VersionMismatch"] > 20


def test_the_same_seed_gives_the_same_inputs():
    assert fuzzing.fuzz(seed=3, inputs=500) == fuzzing.fuzz(seed=3, inputs=500)


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rog:4", "rowcast:3"])
def test_a_server_and_a_worker_live_through_thousands_of_frames_and_their_memory_stays_flat(policy):
    couple, grown = fuzzing.live_on(policy, seed=0, inputs=6000)
    for side in ("server", "worker"):
        assert couple.counts[side, "taken"] > 1500
        for error in ("RemoteProtocolError", "StreamDamaged", "LinkLost"):
            assert couple.counts["server", error] + couple.counts["worker", error] > 5, error
    assert couple.iterations > 200 and couple.links > 200, "they get to training, and come back after errors"
    assert grown < fuzzing.MEMORY_BYTES


@pytest.mark.parametrize("side", ["ServerNode", "WorkerNode"])
def test_memory_that_a_node_keeps_of_each_message_is_noticed(monkeypatch, side):
    """Two hundred bytes are enough."""
    node, kept = getattr(fuzzing, side), []
    receive = node.receive

    def hoarding(*arguments):
        kept.append(bytes(200))
        receive(*arguments)

    monkeypatch.setattr(node, "receive", hoarding)
    _, grown = fuzzing.live_on("rog:4", seed=0, inputs=6000)
    assert grown > fuzzing.MEMORY_BYTES


@pytest.mark.parametrize("module, words", [(fuzzing, ["--inputs", "0"]), (bitflips, [])])
def test_a_run_without_inputs_is_no_success(monkeypatch, capsys, module, words):
    monkeypatch.setattr(sys, "argv", ["fuzz", "--jobs", "1", *words])
    monkeypatch.setattr(fuzzing, "MEMORY_INPUTS", 10)
    monkeypatch.setattr(fuzzing, "POLICIES", ())
    monkeypatch.setattr(bitflips, "POLICIES", ())
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda _: Inline())
    with pytest.raises(SystemExit, match="expected"):
        module.main()


class Inline:
    """A pool of one: this process."""

    def Pool(self, _):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def imap_unordered(self, function, arguments, chunksize=1):
        return map(function, arguments)
