"""Mutated frames between a robot and a server of inferences: a few worlds of those that ``make fuzz`` takes."""

from __future__ import annotations

import sys

import pytest

import fuzzing_inferences


def test_nothing_but_a_connection_ends_by_what_is_nearly_right():
    counts = fuzzing_inferences.fuzz(range(14))
    assert counts["up"] > 30 and counts["down"] > 30
    for what in (("hit", "RemoteProtocolError"), ("server", "RemoteProtocolError"), ("by", "server"), ("by", "robot")):
        assert counts[what] > 20, what


def test_the_same_seed_gives_the_same_world():
    assert fuzzing_inferences.fuzz([5]) == fuzzing_inferences.fuzz([5])


def test_a_run_without_inputs_is_no_success(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fuzz", "--seconds", "0"])
    with pytest.raises(SystemExit, match="expected some mutated frames"):
        fuzzing_inferences.main()
