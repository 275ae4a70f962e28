"""Conversations over connections that come and go: introductions and proofs, joining and resuming, and whether a link
lives. Knows nothing of training.
"""

from rowcast.session.client import JoinRequest
from rowcast.session.link import Link
from rowcast.session.start import record_start

__all__ = ["JoinRequest", "Link", "record_start"]
