"""TLS: certificates that fit, and such that do not."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from edgeferry_runtime.errors import MissingFileError, UsageError
from edgeferry_runtime.serving.settings import Limits
from edgeferry_runtime.serving.tls import doubt, make_context

cryptography = pytest.importorskip("cryptography")
DAY = datetime.timedelta(days=1)


def write(
    folder: Path, name: str = "ours", begins: int = -1, ends: int = 1, password: bytes = b""
) -> tuple[Path, Path]:
    """Write a self-signed certificate for ``localhost`` and its key; days from now."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + begins * DAY)
        .not_valid_after(now + ends * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(pem))
    paths[1].write_bytes(key.private_bytes(pem, private, locked))
    return paths


@pytest.mark.parametrize(
    ("begins", "ends", "said"), [(-1, 1, None), (-2, -1, "has expired"), (1, 2, "is not valid yet")]
)
def test_dates_that_clients_refuse_are_told(tmp_path: Path, begins: int, ends: int, said: str | None) -> None:
    certificate, key = write(tmp_path, begins=begins, ends=ends)
    assert doubt(make_context(certificate, key), certificate) == said


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    certificate, key = write(tmp_path)
    _, other = write(tmp_path, "other")
    _, locked = write(tmp_path, "locked", password=b"secret")
    with pytest.raises(MissingFileError, match=r"--tls-key .*nowhere: no such file"):
        make_context(certificate, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"other.key: is not the key of .*ours.crt"):
        make_context(certificate, other)
    with pytest.raises(UsageError, match=r"locked.key: is encrypted"):
        make_context(certificate, locked)
    with pytest.raises(UsageError, match="cannot be used with"):
        make_context(key, certificate)


def test_it_speaks_tls_asks_for_the_token_and_lets_go_of_who_does_not_shake_hands(
    ferry: Any, slow: Path, tmp_path: Path
) -> None:
    certificate, key = write(tmp_path, ends=-1, begins=-2)
    token = tmp_path / "token"
    token.write_text("correct-horse-battery-staple")
    token.chmod(0o600)
    options = ("--tls-cert", certificate, "--tls-key", key, "--token-file", token, "--host", "0.0.0.0")
    with ferry(f"slow={slow}", *options) as server:
        assert (server.told["tls"], server.told["token"]) == (True, True)
        trusting = ssl.create_default_context(cafile=str(certificate))
        trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        sock = socket.create_connection(("localhost", server.told["port"]))
        with sock, pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            trusting.wrap_socket(sock, server_hostname="localhost")
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        url = f"https://localhost:{server.told['port']}/v2"
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(url, context=trusting)
        refused.value.close()
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token.read_text()}"})
        with urllib.request.urlopen(request, context=trusting) as answer:
            assert json.load(answer)["name"]
        with server.connect() as plain:
            assert b"HTTP" not in plain.send(b"GET /v2 HTTP/1.1\r\n\r\n").rest()
        told = server.stderr.read_text()
        assert "warning: the certificate" in told
        assert "has expired" in told
        assert "everybody" not in told
        assert server.stop() == 0


def test_a_handshake_has_a_deadline(listen: Any, tmp_path: Path) -> None:
    with listen(Limits(head_s=0.3), context=make_context(*write(tmp_path))) as port, port.connect() as client:
        assert client.rest() == b""


def test_who_sends_too_much_over_tls_hears_so(listen: Any, tmp_path: Path) -> None:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with listen(Limits(body_bytes=1000), context=make_context(*write(tmp_path))) as port, port.connect() as client:
        client.wrap(trusting).send(b"POST /echo HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        port.wait_told(status=413)
        for _ in range(3):
            client.send(bytes(100_000))
        assert client.answer().status == 413
