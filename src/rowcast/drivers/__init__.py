"""Drivers own the clock and the bytes; they all run the same nodes.

``rowcast.drivers.sockets``: asyncio over TCP.
"""
