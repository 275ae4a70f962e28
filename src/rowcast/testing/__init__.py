"""What a third party needs to test a codec, a policy, a driver, a source or a job against Rowcast's rules.

* :func:`check_codec`: the conformance suite of codecs.
* :func:`check_driver`: the conformance suite of drivers; :class:`DriverTeam` is what it needs of a worker.
* :func:`check_source`: the conformance suite of sources of samples.
* :func:`check_tensor_codec`: the conformance suite of tensor codecs.
* :func:`check_task`: the conformance suite of tasks.
* :class:`VirtualTeam`: real nodes joined by scripted links in virtual time: no sockets, no threads, no sleeps; a
  fault happens at the byte that the script names, and the same script gives the same journal. :class:`DurableTeam` is
  one whose server has a log, loses its power and comes back.
"""

from rowcast.testing.codecs import check_codec
from rowcast.testing.drivers import DriverTeam, check_driver
from rowcast.testing.durable import DurableTeam
from rowcast.testing.sources import check_source
from rowcast.testing.tasks import check_task
from rowcast.testing.tensor_codecs import check_tensor_codec
from rowcast.testing.virtual import ScriptedWorker, VirtualTeam

__all__ = [
    "DriverTeam",
    "DurableTeam",
    "ScriptedWorker",
    "VirtualTeam",
    "check_codec",
    "check_driver",
    "check_source",
    "check_task",
    "check_tensor_codec",
]
