"""A disk in memory that can be full, and forgets what was not synchronised when the power is lost."""

from __future__ import annotations

import errno
import os
import random

from rowcast.errors import ConfigError


class _File:
    def __init__(self, disk, name):
        self.disk, self.name, self.content = disk, name, bytearray()
        self.synced = 0
        disk.files[name] = self

    def write(self, data):
        self.disk.check()
        room = self.disk.room
        if room is not None and room < len(data):
            self.content += data[:room]  # as much as there is room for, as a real disk does it
            self.disk.room = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if room is not None:
            self.disk.room -= len(data)
        self.content += data
        self.disk.written += len(data)

    def sync(self):
        self.disk.check()
        self.synced = len(self.content)
        self.disk.kept[self.name] = self
        self.disk.syncs += 1

    def close(self):
        pass


class MemoryDisk:
    """See the module.

    Attributes:
        files: as a process sees them, by name; ``kept``: those whose name outlives a loss of power.
        room: bytes that are free; ``None``: without limit.
        fails: every operation fails with this number.
        written, syncs: bytes written, and how often they were synchronised.
    """

    def __init__(self):
        self.files, self.kept = {}, {}
        self.room = self.fails = None
        self.written = self.syncs = 0
        self._claimed = False

    def check(self):
        if self.fails is not None:
            raise OSError(self.fails, os.strerror(self.fails))

    def names(self):
        return list(self.files)

    def read(self, name):
        self.check()
        return bytes(self.files[name].content)

    def create(self, name):
        self.check()
        return _File(self, name)

    def replace(self, name, new):
        self.check()
        self.files[new] = self.files.pop(name)
        self.kept[new] = self.files[new]
        self.kept.pop(name, None)

    def remove(self, name):
        self.check()
        del self.files[name]
        self.kept.pop(name, None)

    def claim(self):
        if self._claimed:
            raise ConfigError("state: process 1 uses it")
        self._claimed = True

        def give_back():
            self._claimed = False

        return give_back

    def lose_power(self, chance: random.Random):
        """What was not synchronised is gone, or there in part, or there with holes."""
        self.files = dict(self.kept)
        for file in self.files.values():
            rest = file.content[file.synced :]
            kept = rest[: chance.randint(0, len(rest))]
            if kept and chance.random() < 0.3:
                hole = chance.randrange(len(kept))
                kept[hole : hole + 512] = bytes(len(kept[hole : hole + 512]))
            file.content[file.synced :] = kept
            file.synced = len(file.content)
        self._claimed = False
        self.room = self.fails = None
