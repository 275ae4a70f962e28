"""TCP in virtual time: segments, acknowledgements, a queue that drops, and what the sender does about it.

:mod:`~rowcast.drivers.virtual.tcp.sender` and :mod:`~rowcast.drivers.virtual.tcp.receiver` are the two ends of a
stream, as state machines that read no clock; :mod:`~rowcast.drivers.virtual.tcp.congestion` says how much may be on the
way; :mod:`~rowcast.drivers.virtual.tcp.lane` puts them onto a link of a simulation.
"""
