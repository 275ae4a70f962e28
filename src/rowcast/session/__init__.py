"""Conversations over connections that come and go: introductions and proofs, joining and resuming, and whether a link
lives. Knows nothing of training.
"""

from rowcast.session.link import Port
from rowcast.session.start import record_start

__all__ = ["Port", "record_start"]
