"""What a third party needs to test a codec, a policy or a driver against Rowcast's rules.

* :func:`check_codec`: the conformance suite of codecs.
* :class:`VirtualTeam`: real nodes joined by scripted links in virtual time: no sockets, no threads, no sleeps; a
  fault happens at the byte that the script names, and the same script gives the same journal.
"""

from rowcast.testing.codecs import check_codec
from rowcast.testing.virtual import ScriptedWorker, VirtualTeam

__all__ = ["ScriptedWorker", "VirtualTeam", "check_codec"]
