"""TLS for STARTTLS: the server's context, and a certificate where the operator gave none.

A certificate of our own making proves nothing about us; it lets a client that insists on
STARTTLS go on, and keeps tokens off the network. It is made once and kept, so that whoever pins
it goes on trusting it.
"""

import datetime as dt
import fcntl
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID_FOR = dt.timedelta(days=3650)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Build the context of a server that speaks TLS 1.2 and newer (RFC 8996 retired the rest).

    Raises:
        OSError: a file cannot be read, or they do not belong together (`ssl.SSLError`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def ensure_self_signed(folder: Path, hostname: str, now: dt.datetime) -> tuple[Path, Path]:
    """Return certificate and key in `folder`, making both on first use; the key is 0600.

    Processes that start at the same time return the same pair.

    Raises:
        OSError: they cannot be written.
    """
    certificate, key = folder / "smtp-cert.pem", folder / "smtp-key.pem"
    # The key is written last: where it stands, so does its certificate, and both stay.
    if not key.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if not key.exists():
                _make(certificate, key, hostname, now)
    return certificate, key


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else makes a pair here; the kernel lets the next one in, however we end."""
    lock = os.open(folder / "smtp-key.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make(certificate: Path, key: Path, hostname: str, now: dt.datetime) -> None:
    private_key = ec.generate_private_key(ec.SECP256R1())
    signed = _self_signed(private_key, hostname, now)
    _replace(certificate, signed.public_bytes(serialization.Encoding.PEM))
    _replace(
        key,
        private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _self_signed(
    key: ec.EllipticCurvePrivateKey, hostname: str, now: dt.datetime
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    names = [x509.DNSName(name) for name in dict.fromkeys((hostname, "localhost"))]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # clients' clocks differ
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _replace(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read, whole or not at all."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
