"""A page on which a team can be watched, live or from its journals.

All that it shows comes from records of the journal: :class:`Team` is what they say of a team, :class:`Recording` reads
them from files, :class:`Watch` and :class:`Live` keep a team up to date, and :func:`page_server` shows it, with
metrics for Prometheus beside it where a :class:`Totals` counts.
"""

from rowcast.page.address import PageAddress
from rowcast.page.curves import Curve
from rowcast.page.model import Robot, Team
from rowcast.page.recording import Recording
from rowcast.page.server import page_server
from rowcast.page.totals import Totals
from rowcast.page.watching import Live, Watch

__all__ = ["Curve", "Live", "PageAddress", "Recording", "Robot", "Team", "Totals", "Watch", "page_server"]
