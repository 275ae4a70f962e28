"""Mutated frames through decoder, server and worker: the 20,000 inputs of the suite; ``make fuzz`` takes millions."""

from __future__ import annotations

import fuzzing


def test_nothing_but_the_errors_of_the_protocol_comes_out_and_memory_stays_flat():
    counts, grown = fuzzing.fuzz(seed=0, inputs=20_000)
    assert sum(counts.values()) >= 20_000
    assert {ended for _, ended in counts} == {"whole", "taken", "RemoteProtocolError", "StreamDamaged", "LinkLost"}
    for target in ("decoder", "server", "worker"):
        assert sum(count for (other, _), count in counts.items() if other == target) > 2000
    # What was mutated is often taken: the fuzzer gets beyond the checksums and into the conversation.
    assert counts["server", "taken"] > 2000 and counts["worker", "taken"] > 2000
    assert grown < fuzzing.MEMORY_BYTES


def test_the_same_seed_gives_the_same_inputs():
    assert fuzzing.fuzz(seed=3, inputs=500)[0] == fuzzing.fuzz(seed=3, inputs=500)[0]
