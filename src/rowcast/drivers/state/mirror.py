"""The folder of a standby: another server's snapshot and log, and the server that they lead to, kept warm."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable, Sequence

from rowcast.config import StateSettings
from rowcast.drivers.state.disk import Disk, OpenFile
from rowcast.drivers.state.folder import StateFolder, read_snapshot, snapshot_bytes
from rowcast.drivers.state.groups import file_header, pack_group
from rowcast.drivers.state.keeper import Warm
from rowcast.drivers.state.spec import TeamSpec
from rowcast.drivers.state.writer import segment_name
from rowcast.durability.records import decode
from rowcast.durability.recovery import Replay
from rowcast.durability.state import State
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.journal import Journal
from rowcast.session.voter import Tenure

__all__ = ["Mirror"]


class Mirror:
    """What a standby has of the server that it follows, on its disk and in memory.

    Each group of the log is on the disk before :attr:`next` counts it, and is then given to the replay: so the server
    is there at once when it is needed. When the replay has worked for ``replay_s``, the standby takes a snapshot of its
    own, beside its work, and removes the log before it.

    Args:
        disk: the folder.
        team: what the server is made of.
        settings: ``replay_s`` counts here.
        journal: of the standby.
        source: of random bytes.

    Attributes:
        identity: 16 bytes that name the folder.
        promised: the highest term that it has promised not to ask for.
        about: what was said of the newest snapshot; empty: the folder is new.
        next: number of the group that comes next.
        replayed_s: processor time of the replay since the last snapshot (s).
        fault: why the replay cannot go on, or ``None``.
        on_heard: called on the thread of the replay when it has heard something.

    Raises:
        ConfigError: another process uses the folder, it cannot be written, or it holds the team of another policy.
        StateDamaged: what it holds cannot be used.
    """

    def __init__(
        self,
        disk: Disk,
        team: TeamSpec,
        settings: StateSettings,
        journal: Journal,
        *,
        source: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._disk, self._team, self._settings, self._journal, self._source = disk, team, settings, journal, source
        self._file: OpenFile | None = None
        self._replay: Replay | None = None
        self._writing: threading.Thread | None = None
        self._pool = self._new_pool()
        self.fault: BaseException | None = None
        self.on_heard: Callable[[], None] = lambda: None
        self.about: dict[str, str] = {}
        self.next = 0
        self.replayed_s = 0.0
        self._folder: StateFolder | None = StateFolder(disk)
        try:
            self.identity = self._identity()
            self.promised = self._shelf.promised()
            self._read()
        except BaseException:
            self.close()
            raise

    def _identity(self) -> bytes:
        try:
            return self._shelf.identity(self._source)
        except OSError as error:
            raise ConfigError(
                f"state: cannot be written: {error.strerror or error}; make room there, or give another --state"
            ) from error

    def _read(self) -> None:
        """What the folder has from before."""
        found = self._shelf.find()
        if found is None:
            return
        if found.about.get("policy") != self._team.policy or found.about.get("durability") != "log":
            raise ConfigError(
                f"state: expected a folder of a standby of policy {self._team.policy}, got one of policy "
                f"{found.about.get('policy')} with durability {found.about.get('durability')}; give another --state"
            )
        self.about = found.about
        self._restored(found.state)
        for record in found.inputs():
            self._known.take(record)
        if self.about.get("server", "") not in ("", self.identity.hex()):  # it asked for no term since then
            self._known.trim()
        self.next = found.groups.next

    @property
    def _shelf(self) -> StateFolder:
        if self._folder is None:
            raise LocalProtocolError("standby: its folder was given away")
        return self._folder

    @staticmethod
    def _new_pool() -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(1, "rowcast-replay")

    @property
    def tenure(self) -> Tenure:
        """Who leads the team, as the log here has it."""
        return Tenure() if self._replay is None else self._replay.node.team.tenure

    @property
    def attached(self) -> bool:
        """What is here is all that anybody was told: this server may lead once a majority lets it."""
        return self.tenure.term > 0 and self.identity in (self.tenure.follower, self.tenure.leader)

    @property
    def members(self) -> int:
        """How many workers the team has."""
        return 0 if self._replay is None else len(self._replay.node.members)

    def promise(self, term: int) -> None:
        """Never ask for this term or a lower one: the other server is to lead in it.

        Raises:
            OSError: that cannot be written.
        """
        self.promised = max(self.promised, term)
        self._shelf.promise(self.promised)

    # -- what comes ------------------------------------------------------------------------------------------------

    def take(self, first: int, data: bytes) -> None:
        """A snapshot, in place of all that is here.

        Args:
            first: number of the group that comes behind it.
            data: its bytes.

        Raises:
            OSError: it cannot be written.
            StateDamaged: it is not as it was written.
        """
        state, about = read_snapshot("the snapshot of the server that is followed", data)
        self._end_file()
        self._rest()
        self._shelf.take(first, data)
        self.about, self.next, self.replayed_s = about, first, 0.0
        self._pool.submit(self._restored, state).add_done_callback(self._done)

    def add(self, groups: Sequence[tuple[int, bytes]]) -> None:
        """Groups of the log: on the disk, and synchronised, when this returns.

        Args:
            groups: numbers and contents, in order.

        Raises:
            OSError: they cannot be written.
            LocalProtocolError: one is missing before them.
        """
        begun = self.next
        try:
            for number, content in groups:
                self._append(number, content)
            if self._file is not None:
                self._file.sync()
        except OSError:
            self.hear(groups[: self.next - begun])  # what is there counts, whatever this server writes behind it
            raise

    def _append(self, number: int, content: bytes) -> None:
        if number != self.next:
            raise LocalProtocolError(f"standby: expected group {self.next}, got group {number}")
        if self._file is None:
            self._file = self._disk.create(segment_name(number))
            self._file.write(file_header(number))
        self._file.write(pack_group(number, content))
        self.next += 1

    def hear(self, groups: Sequence[tuple[int, bytes]]) -> None:
        """Give groups that were added to the replay, which goes on beside."""
        self._pool.submit(self._heard, [content for _, content in groups]).add_done_callback(self._done)
        if self.replayed_s >= self._settings.replay_s and not self._is_writing:
            self.replayed_s = 0.0
            self._end_file()  # the replay has heard up to here when its turn comes
            self._pool.submit(self._snapshot, self.next).add_done_callback(self._done)

    # -- on the thread of the replay ---------------------------------------------------------------------------------

    def _restored(self, state: State) -> None:
        self._replay = Replay(state, journal=self._journal, secret=self._team.secret, source=self._source)

    def _heard(self, contents: list[bytes]) -> None:
        replay = self._known
        begun_s = time.thread_time()
        for record in decode(contents):
            replay.take(record)
        replay.trim()
        self.replayed_s += time.thread_time() - begun_s

    def _done(self, future: concurrent.futures.Future[None]) -> None:
        if (error := future.exception()) is not None:
            self.fault = self.fault or error
        self.on_heard()

    def _snapshot(self, first: int) -> None:
        """Behind it the log is short."""
        replay, shelf, about = self._known, self._shelf, dict(self.about)
        if not replay.settled:
            return
        state = replay.capture()

        def write() -> None:
            try:
                shelf.write(first, snapshot_bytes(state, about))
            except OSError as error:  # the one before is still there, and the log behind it: it is tried again
                text = f"no snapshot can be written: {error.strerror or error}"
                self._journal.record(replay.now, "error", peer="state", error="OSError", message=text)

        self._writing = threading.Thread(target=write, name="rowcast-snapshot", daemon=True)
        self._writing.start()

    @property
    def _known(self) -> Replay:
        if self._replay is None:
            raise LocalProtocolError("standby: expected a snapshot before the log, got none")
        return self._replay

    @property
    def _is_writing(self) -> bool:
        return self._writing is not None and self._writing.is_alive()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing is under way beside."""
        self._pool.shutdown(wait=True)
        self._pool = self._new_pool()
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def give(self) -> Warm:
        """The server and its folder, for who leads from now on; nothing can be taken in here any more."""
        self._end_file()
        self._rest()
        if self.fault is not None:
            raise self.fault
        replay, folder = self._known, self._shelf
        recovered = replay.end(self._team.settings, self._team.links)
        self._folder = self._replay = None
        return Warm(folder, recovered, self.next)

    def close(self) -> None:
        """Let others use the folder."""
        self._end_file()
        self._rest()
        self._pool.shutdown()
        if self._folder is not None:
            self._folder.close()
            self._folder = None
