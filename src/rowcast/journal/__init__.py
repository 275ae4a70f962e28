"""The journal: the structured record of what happened, which every table, figure and test reads.

A node never opens a file and never reads a clock; it calls :meth:`Journal.record` with the time it was
given. What becomes of the record is the sink's business: kept in memory, or written as JSON lines.

A record that cannot be written (a full disk, a dying card) never stops the training: the journal warns once, goes on
without it, and says what is missing as soon as writing works again (event ``gap``).

One file may hold several sessions of a node, one behind the other: a file is appended to, never emptied, and the event
``start`` begins a session.

The schema is :data:`EVENTS`: a name for each event and, for each field, what it means and its unit.
:meth:`Journal.record` refuses an event or a field that the schema does not know, so the schema cannot
fall behind the code.
"""

from rowcast.journal.events import EVENTS, Event, Record
from rowcast.journal.reading import read_journal, session_count
from rowcast.journal.recording import Journal, open_journal
from rowcast.journal.sinks import FileSink, forget, write_to

__all__ = [
    "EVENTS",
    "Event",
    "FileSink",
    "Journal",
    "Record",
    "forget",
    "open_journal",
    "read_journal",
    "session_count",
    "write_to",
]
