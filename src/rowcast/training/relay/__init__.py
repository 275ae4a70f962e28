"""Relays: a server below and a worker above in one node, which sums up rows (algorithms.md 18).

Rows from below go into what the worker above has pending, never into the parameters. What comes from above moves the
replica and is owed below. So every replica of the tree moves by the root's sum alone.
"""

from rowcast.training.relay.node import RelayNode, check_relayed

__all__ = ["RelayNode", "check_relayed"]
