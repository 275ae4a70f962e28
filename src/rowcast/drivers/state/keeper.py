"""A server and the folder that holds its state: built anew or again, snapshots in time, and the end."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rowcast.config import StateSettings
from rowcast.drivers.state.disk import Disk
from rowcast.drivers.state.folder import StateFolder, snapshot_bytes
from rowcast.drivers.state.log import Found, LogWriter, RowLog
from rowcast.drivers.state.spec import TeamSpec
from rowcast.durability.leadership import Leadership, Standing
from rowcast.durability.recorded import Drawn, RecordedServer, roster_of
from rowcast.durability.recovery import Recovery, recover
from rowcast.durability.state import State
from rowcast.errors import ConfigError, RowcastError, SteppedDown
from rowcast.journal import Journal
from rowcast.session.voter import Tenure

__all__ = ["ServerKeeper", "Warm"]


#: See :meth:`ServerKeeper.ship`.
Shipment = Callable[[int, bytes], None]


@dataclass(frozen=True)
class Warm:
    """What a standby knows already.

    Attributes:
        folder: its folder, taken over.
        recovered: the server, as its log has it.
        next: number of the group that comes next.
    """

    folder: StateFolder
    recovered: Recovery
    next: int


def _trace_of(secret: bytes | None, salt: bytes) -> str:
    """What tells later whether a server has the same secret, and nothing of it: slow to make, and salted."""
    if secret is None:
        return ""
    return f"{salt.hex()}:{hashlib.scrypt(secret, salt=salt, n=1 << 14, r=8, p=1, dklen=16).hex()}"


def _knows(secret: bytes | None, trace: str) -> bool:
    """Whether a secret left this trace."""
    salt = bytes.fromhex(trace.partition(":")[0])
    return hmac.compare_digest(_trace_of(secret, salt), trace)


def _log_of(place: Disk | RowLog) -> RowLog:
    """A log as it is; of a folder the log in it."""
    return place if isinstance(place, RowLog) else StateFolder(place)


class _Nowhere:
    """Keeps no records: all of them are committed."""

    committed_to = 0
    failure = ""
    written = waiting_bytes = 0

    def append(self, record: bytes, *, waits: bool = False) -> int:
        return 0

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class ServerKeeper:
    """Keeps a server's state in a log.

    Args:
        disk: the folder that the log lies in; or another log, which is closed with the keeper.
        team: what the server is made of.
        settings: see :mod:`rowcast.config`; ``durability`` is ``snapshot`` or ``log``.
        journal: of the server.
        source: of random bytes.
        warm: nothing need be read: what a standby knows, of the folder that ``disk`` is.
        take_over: it leads, whatever the standby or the other server may do.

    Attributes:
        leadership: whether it may lead; ``None`` where there is no log.
        identity: 16 bytes that name the log.
        server: the server, with its inputs noted; its sessions are those that the folder had.
        starts_at: the driver's time goes on from here (s).
        recovered: how the server was built again; ``None``: the folder was new.
        recovery_s: how long that took (s).
        snapshots, snapshot_bytes: taken so far, and the size of the last one.
        on_commit: called on the log's thread when more of the log is committed, or that fails.
        on_written: called on another thread when a snapshot that was taken beside the work is written, or that has
            failed: :meth:`attend` may take the next one.

    Raises:
        ConfigError: another process uses the folder, or it holds the team of another policy.
        StateDamaged: what the folder holds cannot be used; the message names the file.
    """

    def __init__(
        self,
        disk: Disk | RowLog,
        team: TeamSpec,
        settings: StateSettings,
        journal: Journal,
        *,
        source: Callable[[int], bytes] = os.urandom,
        warm: Warm | None = None,
        take_over: bool = False,
    ) -> None:
        begun = time.monotonic()
        self.settings = settings
        self.recovered: Recovery | None = None
        self.starts_at = 0.0
        self.snapshots = self.snapshot_bytes = 0
        self.on_commit: Callable[[], None] = lambda: None
        self.on_written: Callable[[], None] = lambda: None
        self.fault = ""
        self._cut_bytes = self._forgotten = 0
        self._trace = _trace_of(team.secret, os.urandom(16))
        self._team = team
        self._taken_at = self._worked_s = 0.0
        self._writing: threading.Thread | None = None
        self._is_writing = False
        self._shipments: list[Shipment] = []
        self.leadership: Leadership | None = None
        self._folder: RowLog = _log_of(disk) if warm is None else warm.folder
        try:
            found = None if warm is not None else self._folder.find()
            self.identity = self._identity(source)
            self._next = 0
            if warm is not None:
                self.server = self._resume(warm.recovered, warm.next, sessions=True)
            elif found is None:
                self.server = self._begin(journal, source)
            else:
                self.server = self._again(found, journal, source)
            self._lead(source, take_over=take_over)
        except BaseException:
            self._folder.close()
            raise
        self.recovery_s = time.monotonic() - begun
        self._write(*self._snapshot(self.starts_at))  # behind it the log is short, and a new folder is no empty one
        if self.fault:
            self.close(self.starts_at)
            raise self._unwritable(self.fault)

    def _unwritable(self, why: str) -> ConfigError:
        return ConfigError(f"state: cannot be written: {why}; {self._folder.remedy}, or give another --state")

    @property
    def followable(self) -> bool:
        """Whether a standby may follow this server."""
        return self._folder.followable

    @property
    def lost(self) -> RowcastError | None:
        """Why this server must end: its log has another owner, or was away for too long; ``None``: it need not."""
        return self._folder.lost

    @property
    def failing(self) -> str:
        """What cannot be written, why, and what follows from it; empty: nothing."""
        remedy = self._folder.remedy
        if why := self._log.failure or self._folder.trouble:
            return f"the state cannot be written: {why}; workers hear nothing until it can be; {remedy}"
        if self.fault:
            return f"no snapshot can be written: {self.fault}; the one before is kept; {remedy}"
        return ""

    @property
    def log(self) -> LogWriter | _Nowhere:
        """Where the server's inputs are appended."""
        return self._log

    def _open_log(self, first: int) -> LogWriter | _Nowhere:
        self._next = first
        if self.settings.durability != "log":
            self._log: LogWriter | _Nowhere = _Nowhere()
        else:
            self._log = self._folder.writer(first, commit_s=self.settings.commit_s, committed=lambda: self.on_commit())
        return self._log

    def _begin(self, journal: Journal, source: Callable[[int], bytes]) -> RecordedServer:
        drawn = Drawn(source)
        return RecordedServer(self._team.node(journal, drawn), self._open_log(0), drawn)

    def _again(self, found: Found, journal: Journal, source: Callable[[int], bytes]) -> RecordedServer:
        team = self._team
        if found.about.get("policy") != team.policy:
            raise ConfigError(
                f"state: its team has the policy {found.about.get('policy')}, and this server has {team.policy}; "
                "give that --policy, or another --state"
            )
        inputs = iter(found.inputs() if found.about.get("durability") == "log" else ())
        if not _knows(team.secret, found.about.get("secret", "")) and next(inputs, None) is not None:
            raise ConfigError(
                "state: it is of a server with another shared secret, which did not end as it should; start it once "
                "more with that secret and stop it, or give another --state"
            )
        recovered = recover(
            found.state,
            inputs,
            journal=journal,
            secret=team.secret,
            settings=team.settings,
            links=team.links,
            source=source,
        )
        team.check(recovered.node)
        self._cut_bytes = found.groups.cut
        if found.about.get("server", "") not in ("", self.identity.hex()):  # all that is here came from the other one
            del recovered.rosters[:-1]
        sessions = found.about.get("durability") == "log" or found.about.get("ended") == "yes"
        return self._resume(recovered, found.groups.next, sessions=sessions)

    def _resume(self, recovered: Recovery, next_group: int, *, sessions: bool) -> RecordedServer:
        self.recovered, self.starts_at = recovered, recovered.now
        known = set(recovered.node.members)
        server = recovered.resume(self._open_log(next_group), recovered.now, sessions=sessions)
        self._forgotten = len(known - set(recovered.node.members))
        return server

    def _identity(self, source: Callable[[int], bytes]) -> bytes:
        try:
            return self._folder.identity(source)
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error

    def _lead(self, source: Callable[[int], bytes], *, take_over: bool) -> None:
        """Find out who leads, and lead a team that is new."""
        tenure, server = self.server.node.team.tenure, self.server
        if self.settings.durability != "log":
            if tenure.follower:
                raise ConfigError("state: its team has a standby, which needs a log; give --durability log")
            return
        rosters = [frozenset[bytes]()] if self.recovered is None else self.recovered.rosters
        promised = self._folder.promised()
        leads = Leadership(tenure, self.identity, rosters, promised=promised, forced=take_over)
        self.leadership = leads
        server.rosters, server.on_roster = lambda: leads.rosters, leads.roster
        if take_over or tenure.term == 0:
            first = leads.take_over() if take_over else leads.first(source(16))
            server.node.lead(self.starts_at, first)  # the snapshot that comes next has it
            leads.led(first, 0, 0, frozenset(roster_of(server.node)))

    def change(self, now: float, tenure: Tenure) -> None:
        """From now on the team is led so; it is in the log before anybody hears of it."""
        assert self.leadership is not None
        self.server.lead(now, tenure)
        members = frozenset(roster_of(self.server.node))
        self.leadership.led(tenure, self.server.position, self._log.committed_to, members)

    @property
    def leads(self) -> bool:
        """Something may be told."""
        return self.leadership is None or self.leadership.standing in (Standing.ALONE, Standing.ATTACHED)

    def record(self, now: float) -> None:
        """Tell the journal how the server was built again, if it was."""
        if (recovered := self.recovered) is None:
            return
        recovered.node.journal.record(
            now,
            "restarted",
            inputs=recovered.inputs,
            cut_bytes=self._cut_bytes,
            members=len(recovered.node.members),
            forgotten=self._forgotten,
        )

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def attend(self, now: float, worked_s: float) -> None:
        """Take a snapshot if one is due and none is being written. It is written beside the server's work.

        Args:
            now: time (s).
            worked_s: processor time of the server so far (s): about what it takes to do the same once more.
        """
        if self._is_writing:
            return
        if not isinstance(self._log, _Nowhere):
            due = worked_s - self._worked_s >= self.settings.replay_s
        else:
            due = now - self._taken_at >= self.settings.snapshot_s
        if due or self._shipments:
            self._worked_s = worked_s
            taken = self._snapshot(now)
            self._writing = threading.Thread(
                target=self._write_beside, args=taken, name="rowcast-snapshot", daemon=True
            )
            self._is_writing = True
            try:
                self._writing.start()
            except RuntimeError:  # there is no room for another thread: it is tried again
                self._is_writing, self._writing = False, None
                self._shipments = taken[-1]
                raise

    def ship(self, tap: Callable[[int, int, bytes], None], snapshot: Shipment) -> None:
        """Give a standby what it needs: a snapshot that is taken next, and from now on each group of the log.

        Args:
            tap: see :class:`~rowcast.drivers.state.log.LogWriter`.
            snapshot: called on another thread with the number of the first group behind it and its bytes, once it is on
                this disk (empty: it cannot be written); what the tap is given before that number is in it.
        """
        assert not isinstance(self._log, _Nowhere)
        self._log.tap = tap
        self._shipments = [snapshot]

    def ship_nothing(self) -> None:
        """The standby is gone."""
        assert not isinstance(self._log, _Nowhere)
        self._log.tap = None
        self._shipments = []

    def _snapshot(self, now: float, *, ended: bool = False) -> tuple[int, State, dict[str, str], list[Shipment]]:
        log = self._log
        if not isinstance(log, _Nowhere):
            self._next = log.rotate()
        else:
            self._next += 1
        self._taken_at = now
        about = {"policy": self._team.policy, "durability": self.settings.durability, "ended": "yes" if ended else "no"}
        about["secret"] = self._trace
        about["server"] = self.identity.hex()
        about["team"] = self.server.node.team.tenure.team.hex()
        shipments, self._shipments = self._shipments, []
        return self._next, self.server.capture(now), about, shipments

    def _write_beside(self, first: int, state: State, about: dict[str, str], shipments: list[Shipment]) -> None:
        try:
            self._write(first, state, about, shipments)
        finally:
            self._is_writing = False
            self.on_written()

    def _write(self, first: int, state: State, about: dict[str, str], shipments: list[Shipment]) -> None:
        data = snapshot_bytes(state, about)
        try:
            self._folder.write(first, data)
            self.snapshots += 1
            self.snapshot_bytes = len(data)
            self.fault = ""
        except OSError as error:  # the one before is still there, and so is the log behind it
            self.fault = error.strerror or str(error)
        except SteppedDown as error:  # :attr:`lost` says so
            self.fault = str(error)
        for shipment in shipments:
            shipment(first, b"" if self.fault else data)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, now: float) -> None:
        """The server has stopped: a last snapshot, behind which nothing comes."""
        if self._writing is not None:
            self._writing.join()
        self._log.flush()
        if not self.fault and not self._log.failure:
            self._write(*self._snapshot(now, ended=True))
        self._log.close()
        self._folder.close()
