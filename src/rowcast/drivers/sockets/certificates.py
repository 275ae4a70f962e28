"""Certificates of a team: an authority, its server, its robots, and what was taken back.

All keys are on the curve P-256 with SHA-256: every TLS library and every security chip has it, and the channel binding
``tls-server-end-point`` (RFC 5929, section 4.1) is defined by the hash of a certificate's signature, which Ed25519 does
not have. The profile is that of RFC 5280. All that is computed here, the package ``cryptography`` computes.

What a certificate stands for is in its alternative name, a URI: ``urn:rowcast:robot:NAME`` (percent-encoded) or
``urn:rowcast:server``. Its common name is for people.
"""

from __future__ import annotations

import datetime
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = [
    "AUTHORITY_DAYS",
    "ROBOT",
    "SERVER",
    "Authority",
    "Holder",
    "Issued",
    "key_pem",
    "now_utc",
    "self_signed",
]

#: What a certificate may stand for.
ROBOT, SERVER = "robot", "server"
#: An authority is made once, for the life of a team.
AUTHORITY_DAYS = 3650
#: Certificates begin a day early: many robots have no clock of their own, and set it late.
EARLY = datetime.timedelta(days=1)
#: The longest common name, in bytes (RFC 5280, appendix A).
MOST_COMMON_NAME = 64

_URN = "urn:rowcast:"


def now_utc() -> datetime.datetime:
    """The time of this machine's clock, in whole seconds as certificates have them."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


@dataclass(frozen=True)
class Holder:
    """Whom a certificate stands for.

    Attributes:
        role: :data:`ROBOT` or :data:`SERVER`.
        name: of a robot; of a server, the empty text.
        serial: number of the certificate, unique in its team.
        begins, ends: when it is valid.
        authority: names the authority that has signed it.
    """

    role: str
    name: str
    serial: int
    begins: datetime.datetime
    ends: datetime.datetime
    authority: str

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Holder | None:
        """What a certificate says; ``None``: it is none of Rowcast's."""
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return None
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
            role, _, name = uri.removeprefix(_URN).partition(":")
            if uri.startswith(_URN) and role in (ROBOT, SERVER) and bool(name) == (role == ROBOT):
                return cls(
                    role,
                    urllib.parse.unquote(name, errors="strict"),
                    certificate.serial_number,
                    certificate.not_valid_before_utc,
                    certificate.not_valid_after_utc,
                    certificate.issuer.rfc4514_string(),
                )
        return None

    @property
    def who(self) -> str:
        """For people."""
        return repr(self.name) if self.role == ROBOT else "the server"


@dataclass(frozen=True)
class Issued:
    """A certificate with its key; shown nowhere.

    Attributes:
        key: its private key.
        certificate: the certificate.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return f"Issued(serial {self.certificate.serial_number:x}, key not shown)"

    def bundle(self, authority: x509.Certificate) -> bytes:
        """All that its holder needs, as PEM: its key, its certificate, and that of the authority."""
        pem = serialization.Encoding.PEM
        return key_pem(self.key) + self.certificate.public_bytes(pem) + authority.public_bytes(pem)


@dataclass(frozen=True)
class Authority:
    """Signs the certificates of one team; its key is shown nowhere.

    Attributes:
        key: its private key.
        certificate: its certificate, which it has signed itself.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return f"Authority({self.certificate.subject.rfc4514_string()}, key not shown)"

    @classmethod
    def make(cls, name: str) -> Authority:
        """A new one; ``name`` is for people, its key identifier tells it from others of that name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        usage = _usage(key_cert_sign=True, crl_sign=True)
        certificate = (
            _begin(subject, key.public_key(), AUTHORITY_DAYS)
            .issuer_name(subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def issue(self, role: str, name: str, days: float) -> Issued:
        """A new key, and a certificate for it.

        Args:
            role: :data:`ROBOT` or :data:`SERVER`; it can be used as nothing else.
            name: of a robot; for people, of a server.
            days: for so long it is valid, but not for longer than the authority.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role == SERVER:  # a standby connects to the server that it follows
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        uri = f"{_URN}{role}" + (f":{urllib.parse.quote(name, safe='')}" if role == ROBOT else "")
        certificate = (
            _begin(_subject(name), key.public_key(), days, self.certificate.not_valid_after_utc)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._key_identifier(), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Issued(key, certificate)

    def revocations(self, revoked: Iterable[x509.RevokedCertificate], number: int) -> x509.CertificateRevocationList:
        """The list of what was taken back, signed.

        Args:
            revoked: all of it.
            number: counts the lists of this authority.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now_utc())
            # It lies beside the server, which looks at it each second: none is ever too old.
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(self._key_identifier(), critical=False)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(each)
        return builder.sign(self.key, hashes.SHA256())

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def self_signed() -> Issued:
    """A certificate that nobody vouches for: the proofs of a shared secret are bound to it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("rowcast")
    return Issued(key, _begin(subject, key.public_key(), 1).issuer_name(subject).sign(key, hashes.SHA256()))


def key_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """A private key as PKCS #8 in PEM, under a password where there is one."""
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        how = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def _begin(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: float,
    at_most: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = now_utc()
    ends = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now - EARLY, ends - EARLY))
        .not_valid_after(ends if at_most is None else min(ends, at_most))
    )


def _subject(name: str) -> x509.Name:
    short = name.encode()[:MOST_COMMON_NAME].decode(errors="ignore")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, short)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
