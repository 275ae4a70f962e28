"""A run, as its journals tell of it, in the files of other programs.

:class:`Moments` reads journals record by record and feeds the :class:`rowcast.page.Team` that the page shows as well;
what that says after each record is written by one of :data:`TARGETS`.
"""

from rowcast.export.moments import Moment, Moments, Value
from rowcast.export.targets import TARGETS, Target, Written, export_run

__all__ = ["TARGETS", "Moment", "Moments", "Target", "Value", "Written", "export_run"]
