"""What stands in the way of a worker: checks of this machine, and of the way to a server."""

from rowcast.experiment.doctor.check import Check, as_json
from rowcast.experiment.doctor.local import local_checks
from rowcast.experiment.doctor.remote import remote_checks

__all__ = ["Check", "as_json", "local_checks", "remote_checks"]
