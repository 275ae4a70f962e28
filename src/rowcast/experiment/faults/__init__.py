"""Faults as scripts: what happens to a team and when, played on real sockets and in virtual time, and what held.

``docs/recovery.md`` shows how to play one; ``tests/faults`` has one for each fault that a team must survive.
"""

from rowcast.experiment.faults.judging import Report, Verdict
from rowcast.experiment.faults.reading import load_script
from rowcast.experiment.faults.script import FaultScript
from rowcast.experiment.faults.sockets import play_sockets
from rowcast.experiment.faults.virtual import play_virtual

__all__ = ["FaultScript", "Report", "Verdict", "load_script", "play_sockets", "play_virtual"]
