"""TLS 1.3 on one connection, without its socket: bytes in, bytes out.

A connection carries the records itself (:mod:`rowcast.drivers.sockets.connection`), and not asyncio, whose TLS has
buffers of its own: rows are still chosen when the kernel has room, a control message still waits behind one record at
most, the options are set on the socket itself, and what a stranger sends is counted from its first byte on.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path

from rowcast.drivers.sockets.certificates import Issued, key_pem, now_utc
from rowcast.errors import AuthenticationFailed, CertificateRevoked, RemoteProtocolError, StreamDamaged, TlsNeeded
from rowcast.wire import Refusal, encode

__all__ = ["Channel", "channel_hash", "context_of", "load_issued", "plain_refusal"]

#: What both ends call the protocol inside, so that no other one is ever spoken on this port by mistake (RFC 7301).
ALPN = "rowcast"
#: The first bytes of a record that a peer may begin with: a handshake, an alert.
_FIRST = (0x16, 0x15)
#: Bytes before the content of a record: its type, version and length (RFC 8446, section 5.1).
HEADER_BYTES = 5
#: What OpenSSL says of a peer's certificate (``X509_V_ERR_...``), and which alert it tells the peer then.
_VERIFY = {
    **dict.fromkeys((2, 7, 18, 19, 20, 21, 29, 30), "foreign"),
    9: "early",
    10: "expired",
    26: "purpose",
}
_ALERTS = {
    "BAD_CERTIFICATE": "early",
    "CERTIFICATE_EXPIRED": "expired",
    "CERTIFICATE_REVOKED": "revoked",
    "CERTIFICATE_REQUIRED": "none",
    "CERTIFICATE_UNKNOWN": "foreign",
    "UNKNOWN_CA": "foreign",
    "UNSUPPORTED_CERTIFICATE": "purpose",
}
#: What each means: of a server's certificate, as a robot says it, and of a robot's.
_OF_SERVER = {
    "early": "it is not valid yet by the clock of this machine, {now}; set the clock",
    "expired": "it has expired by the clock of this machine, {now}; set the clock, or make the server a new one with "
    "'rowcast team server'",
    "foreign": "it is not of this robot's team, or the server has a shared secret in place of a team; give both files "
    "of the same 'rowcast team init'",
    "purpose": "it is not that of a server; whoever answers there is none",
}
_OF_ROBOT = {
    "early": "it is not valid yet by the clock of the server; set the clocks, or make another one with 'rowcast team "
    "add'",
    "expired": "it has expired by the clock of the server; make a new one with 'rowcast team add NAME --replace', and "
    "copy it to the robot",
    "foreign": "it is not of the server's team; make one with 'rowcast team add' where the server's was made",
    "none": "it has none, and the server lets in the robots of its team only; give it one with --team (rowcast team "
    "add)",
    "purpose": "it is not that of a robot; make one with 'rowcast team add NAME'",
    "revoked": "it was revoked; make a new one with 'rowcast team add NAME --replace' if that was a mistake",
}


def context_of(*, server_side: bool, authority: str | None = None) -> ssl.SSLContext:
    """Settings of TLS, the same on both ends: version 1.3 and nothing older, no compression, no tickets.

    Args:
        server_side: of the end that listens.
        authority: certificate of the team's authority (PEM): only who has one that it signed is let in, on both sides;
            ``None``: nobody is asked, for a shared secret is proved inside.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.set_alpn_protocols([ALPN])
    if server_side:
        context.num_tickets = 0  # a robot that comes back proves itself anew, and may have been revoked
    else:
        context.check_hostname = False  # robots move, and so do servers: the role in the certificate is what counts
    if authority is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=authority)
    return context


def load_issued(context: ssl.SSLContext, issued: Issued) -> None:
    """Let a context use a certificate of this process. Python takes keys from files only: there it is encrypted."""
    from cryptography.hazmat.primitives.serialization import Encoding

    password = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="rowcast-") as folder:
        path = Path(folder) / "own.pem"
        path.write_bytes(key_pem(issued.key, password.encode()) + issued.certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(path, password=password)


def channel_hash(certificate: bytes) -> bytes:
    """What proofs are bound to: SHA-256 of the server's certificate (``tls-server-end-point``, RFC 5929)."""
    return hashlib.sha256(certificate).digest()


def plain_refusal() -> bytes:
    """What a server answers to who speaks without TLS, or says nothing at all: a frame that can be read without."""
    return encode(
        Refusal(
            "tls",
            "this server speaks TLS only: it has a shared secret or a team's certificates, and this worker has neither "
            "(or is of an older release); give both the same --secret-file, or this worker its file (--team)",
        )
    )


class Channel:
    """One end of TLS on one connection.

    Args:
        context: see :func:`context_of`.
        server_side: this is the end that listens.
        own: says of this end's own certificate whose it is and how long it is valid, for a robot that is refused.

    Attributes:
        ready: the handshake is over; before that nothing can be said.
        begun: something has arrived.
        usable: something can be said: the handshake is over, and nothing has gone wrong.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, own: Callable[[], str] | None = None) -> None:
        self.ready = False
        self.begun = False
        self._server_side = server_side
        self._own = own
        self._with_team = context.verify_mode == ssl.CERT_REQUIRED
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._data = bytearray(0)
        self._fault: RemoteProtocolError | None = None
        self._head = b""
        self._length = self._left = 0

    @property
    def usable(self) -> bool:
        return self.ready and self._fault is None

    # -- records -----------------------------------------------------------------------------------------------

    def buffer(self, size: int) -> memoryview:
        """Where the next bytes of the connection are to be written."""
        if len(self._data) != size:
            self._data = bytearray(size)
        return memoryview(self._data)

    def filled(self, count: int) -> None:
        """So many bytes lie in the buffer.

        Raises:
            TlsNeeded: the peer does not speak TLS.
        """
        if not self.begun:
            self.begun = True
            if self._data[0] not in _FIRST:
                raise TlsNeeded(self._not_tls(bytes(self._data[: min(count, 8)])))
        arrived = memoryview(self._data)[:count]
        self._incoming.write(arrived)
        self._follow(arrived)

    def _follow(self, arrived: memoryview) -> None:
        """Where records begin and end: 5 bytes of header, the last two of which are the length of the rest."""
        place = 0
        while place < len(arrived):
            if self._left:
                step = min(self._left, len(arrived) - place)
                self._left -= step
            else:
                step = min(HEADER_BYTES - len(self._head), len(arrived) - place)
                self._head += arrived[place : place + step]
                if len(self._head) == HEADER_BYTES:
                    self._left = self._length = int.from_bytes(self._head[3:], "big")
                    self._head = b""
            place += step

    @property
    def unfinished(self) -> tuple[int, int]:
        """Of a record that has begun and is not whole: bytes that are here, and all of them. (0, 0): there is none."""
        if self._left:
            return HEADER_BYTES + self._length - self._left, HEADER_BYTES + self._length
        return (len(self._head), HEADER_BYTES) if self._head else (0, 0)

    def take(self) -> bytes:
        """What is to be sent on the connection now."""
        return self._outgoing.read() if self._outgoing.pending else b""

    # -- what is said ------------------------------------------------------------------------------------------

    def advance(self) -> bool:
        """Go on with the handshake as far as what has arrived allows; returns whether it is over.

        Raises:
            RemoteProtocolError: it has failed. :meth:`take` has what the peer is to be told.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._fault = self._explained(error)
            raise self._fault from error
        if self._tls.selected_alpn_protocol() != ALPN:
            raise RemoteProtocolError("expected a peer that speaks Rowcast inside TLS, got one that does not say so")
        self.ready = True
        return True

    def read(self, place: memoryview) -> int:
        """Take what the peer has said into ``place``; returns how many bytes, 0 where nothing (more) has come.

        Raises:
            StreamDamaged: what arrived is not what the peer sent.
            RemoteProtocolError: the peer has refused this end, and says why.
        """
        if self._fault is not None:
            raise self._fault
        end = 0
        try:
            while end < len(place):
                count = self._tls.read(len(place) - end, place[end:])
                if not count:
                    break
                end += int(count)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):  # no whole record; or the peer says no more
            pass
        except ssl.SSLError as error:
            self._fault = self._explained(error)
            if not end:
                raise self._fault from error
        return end  # a fault behind what was read is raised next time

    def write(self, data: memoryview) -> None:
        """Say something; :meth:`take` has the records."""
        self._tls.write(data)

    def close(self) -> None:
        """Say that nothing follows; :meth:`take` has the record."""
        with contextlib.suppress(ssl.SSLError):  # the peer has not said so as well; nobody waits for that
            self._tls.unwrap()

    # -- who is there ------------------------------------------------------------------------------------------

    @property
    def peer_certificate(self) -> bytes:
        """The certificate of the other end (DER); empty where it has none."""
        return self._tls.getpeercert(binary_form=True) or b""

    # -- what went wrong ---------------------------------------------------------------------------------------

    def _not_tls(self, first: bytes) -> str:
        if self._server_side:
            whose = "a worker that speaks without" if first.startswith(b"RC") else f"bytes {first!r}"
            return f"expected TLS, got {whose}: a worker needs --secret-file or --team here, as the server has"
        whose = "a server that speaks without" if first.startswith(b"RC") else f"bytes {first!r}"
        return f"expected TLS, got {whose}; give the server the same --secret-file or its --team, and check the port"

    def _explained(self, error: ssl.SSLError) -> RemoteProtocolError:
        """What TLS complains of, for people, and whose fault it is."""
        if isinstance(error, ssl.SSLCertVerificationError):
            kind = _VERIFY.get(error.verify_code)
            what = "its certificate was not accepted: "
            if kind is None:
                return RemoteProtocolError(f"{what}{error.verify_message}")
            texts = _OF_ROBOT if self._server_side else _OF_SERVER
            return RemoteProtocolError(what + texts[kind].format(now=f"{now_utc():%Y-%m-%d %H:%M} UTC"))
        reason = error.reason or ""
        if self._server_side and reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return RemoteProtocolError(f"its certificate was not accepted: {_OF_ROBOT['none']}")
        kind = _ALERTS.get(reason.partition("ALERT_")[2]) if "ALERT_" in reason else None
        if kind is not None and self._with_team:
            return self._refused(kind)
        if kind == "none" and not self._server_side:
            return RemoteProtocolError(
                "it wants the certificate of a robot of its team; give this worker its file of 'rowcast team add' "
                "(--team) in place of the secret"
            )
        if self.ready:
            return StreamDamaged(f"expected TLS records as they were sent, got others: {_plain(reason)}")
        return RemoteProtocolError(f"the TLS handshake failed: {_plain(reason or str(error))}")

    def _refused(self, kind: str) -> RemoteProtocolError:
        """The peer has refused the certificate of this end."""
        if self._server_side:
            return RemoteProtocolError(
                "the robot did not accept the server's certificate: of another team, or its dates do not fit the "
                "robot's clock"
            )
        text = "the server did not accept this robot's certificate"
        text = f"{text}{f' ({self._own()})' if self._own is not None else ''}: {_OF_ROBOT[kind]}"
        if not self.ready:  # whoever that is has not proved that it is the team's server
            return RemoteProtocolError(text)
        return CertificateRevoked(text) if kind == "revoked" else AuthenticationFailed(text)


def _plain(reason: str) -> str:
    return reason.lower().replace("_", " ") or "no reason given"
