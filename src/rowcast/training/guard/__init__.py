"""What a server does about a member whose updates are out of line: clip them, or put the member aside."""

from rowcast.training.guard.guard import GUARDS, Guard, Incident

__all__ = ["GUARDS", "Guard", "Incident"]
