"""TLS: the certificate and its key, tried before anybody connects."""

from __future__ import annotations

import ssl
from pathlib import Path

from edgeferry_runtime.errors import MissingFileError, UsageError

EXPIRED, NOT_YET = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL's x509_vfy.h."""


def make_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Read a certificate chain and its private key.

    Args:
        certificate: PEM file.
        key: PEM file, not encrypted.

    Raises:
        MissingFileError: If there is no such file.
        UsageError: If one of them is something else, or they do not belong together.
    """
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        if not path.is_file():
            raise MissingFileError(f"{option} {path}", "no such file", "give a PEM file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def passphrase() -> str:
        raise UsageError(f"--tls-key {key}", "is encrypted", "give a key without passphrase: openssl pkey -in KEY")

    try:
        context.load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        raise _misfit(certificate, key, error) from error
    return context


def _misfit(certificate: Path, key: Path, error: ssl.SSLError) -> UsageError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return UsageError(f"--tls-key {key}", f"is not the key of {certificate}", "give the key that belongs to it")
    return UsageError(
        f"--tls-cert {certificate}", f"cannot be used with {key} ({error.reason or 'no PEM'})", "give two PEM files"
    )


def doubt(context: ssl.SSLContext, certificate: Path) -> str | None:
    """Say why clients will not trust a certificate's dates; None where they will.

    A client that trusts this certificate alone shakes hands with the server, in memory.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True))
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return {EXPIRED: "has expired", NOT_YET: "is not valid yet"}.get(error.verify_code)
    return None
