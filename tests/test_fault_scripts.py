"""Each script of ``tests/faults``, on real sockets and in virtual time; and that the judge is not blind.

In virtual time they last as long as they say. On real sockets those that are longer than :data:`LENGTH_S` are played
faster, all times by the same factor; ``benchmarks/faults.py --parts scripts`` plays them at their full length.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rowcast.errors import ConfigError
from rowcast.experiment.faults import load_script, play_sockets, play_virtual
from rowcast.experiment.faults.processes import raise_descriptors

SCRIPTS = {path.stem: path for path in sorted((Path(__file__).parent / "faults").glob("*.toml"))}
#: The last event of a script on real sockets has ended by then (s).
LENGTH_S = 6.0


class Quiet:
    """Shows nothing."""

    def says(self, text):
        pass

    def shows(self, run, left_s, total_s, lines):
        pass


def check(report):
    if report.not_played:
        pytest.skip(report.not_played)
    assert report.held, "\n".join(report.broken)


@pytest.mark.system
@pytest.mark.parametrize("name", SCRIPTS)
def test_on_real_sockets(name, tmp_path):
    script = load_script(SCRIPTS[name])
    wanted = 2 * sum(getattr(event, "count", 0) for event in script.event) + 100
    if (allowed := raise_descriptors()) < wanted:
        pytest.skip(f"needs {wanted} descriptors, and may have {allowed} (ulimit -Hn)")
    check(play_sockets(script.lasting(LENGTH_S), tmp_path / "out", Quiet()))


@pytest.mark.parametrize("name", SCRIPTS)
def test_in_virtual_time(name):
    check(play_virtual(load_script(SCRIPTS[name])))
