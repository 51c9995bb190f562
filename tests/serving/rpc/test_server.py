"""The port: who may, over what, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.settings import Address, Limits

Array = np.ndarray[Any, Any]
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_a_token_over_tls(serve: Any, connect: Any, bundles: dict[str, Path], pictures: Array, pair: Any) -> None:
    certificate, key = pair
    address = Address(port=0, grpc_port=0, management_port=0, certificate=certificate, key=key, token=TOKEN)
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with serve({"address": address}, digits=bundles["float"]) as server, connect(server.grpc, credentials) as rpc:
        request = rpc.asked("digits", image=pictures[:1])
        for free in ("inference/ServerLive", "inference/ServerReady", "health/Check"):
            rpc.send(free, b"")
        assert rpc.refused("inference/ModelInfer", request) == (
            "UNAUTHENTICATED",
            "the request: shows no token; send the metadata authorization: Bearer TOKEN",
        )
        wrong = [("authorization", f"Bearer {TOKEN}x")]
        code, details = rpc.refused("inference/ModelInfer", request, metadata=wrong)
        assert (code, TOKEN in details) == ("UNAUTHENTICATED", False)
        right = [("authorization", f"Bearer {TOKEN}")]
        assert rpc.send("inference/ModelInfer", request.SerializeToString(), metadata=right)
        with connect(server.grpc) as plain:
            assert plain.refused("inference/ServerLive")[0] == "UNAVAILABLE"


def test_a_port_is_never_shared(serve: Any, server: Any, bundles: dict[str, Path]) -> None:
    port = int(server.grpc.partition(":")[2])
    address = Address(port=0, grpc_port=port, management_port=0)
    with pytest.raises(EdgeferryError, match="give another --grpc-port"), serve({"address": address}):
        pass


def test_an_address_of_ipv6(serve: Any, connect: Any, bundles: dict[str, Path]) -> None:
    address = Address(host="::1", port=0, grpc_port=0, management_port=0)
    with serve({"address": address}) as server, connect(server.grpc.replace("127.0.0.1", "[::1]")) as rpc:
        assert rpc.call("inference/ServerLive", "ServerLiveRequest", "ServerLiveResponse").live


@contextmanager
def resting(rpc: Any, pictures: Array) -> Iterator[Any]:
    """A stream that has got one answer, and waits; gives its answers."""
    ended = threading.Event()

    def requests() -> Iterator[bytes]:
        yield rpc.asked("digits", image=pictures[:1]).SerializeToString()
        ended.wait(60)

    answers = rpc.channel.stream_stream(rpc.path("inference/ModelStreamInfer"))(requests(), timeout=60)
    assert next(answers)
    yield answers
    ended.set()


def test_a_stream_that_rests_does_not_hold_up_the_end(serve: Any, connect: Any, bundles: Any, pictures: Array) -> None:
    life = serve({"limits": Limits(drain_s=50)}, digits=bundles["float"])
    server = life.__enter__()
    with connect(server.grpc) as rpc, resting(rpc, pictures) as answers:
        began = time.monotonic()
        life.__exit__(None, None, None)
        assert time.monotonic() - began < 30
        with pytest.raises(grpc.RpcError) as raised:
            next(answers)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert raised.value.details() == "the server: is about to stop; try again later"


def test_a_stream_may_rest_only_so_long(serve: Any, connect: Any, bundles: Any, pictures: Array) -> None:
    limits = {"limits": Limits(idle_s=0.2)}
    with (
        serve(limits, digits=bundles["float"]) as server,
        connect(server.grpc) as rpc,
        resting(rpc, pictures) as answers,
        pytest.raises(grpc.RpcError) as raised,
    ):
        next(answers)
    assert raised.value.details() == "the stream: brought no request; take at most 0.2 s"


def test_health_follows_the_server(rpc: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(**fields: Any) -> int:
        found: int = rpc.call("health/Check", "HealthCheckRequest", "HealthCheckResponse", **fields).status
        return found

    assert check() == check(service="inference.GRPCInferenceService") == 1
    monkeypatch.setattr(server.service, "stopping", True)
    assert check() == 2
    request = message("grpc.health.v1.HealthCheckRequest")(service="x")
    assert rpc.refused("health/Check", request)[0] == "NOT_FOUND"
    assert rpc.refused("health/Watch")[0] == "UNIMPLEMENTED"


def test_only_so_many_connect_at_the_same_time(serve: Any, connect: Any) -> None:
    with serve({"limits": Limits(connections=2)}) as server, ExitStack() as stack:
        calls = [stack.enter_context(connect(server.grpc)) for _ in range(3)]
        for rpc in calls[:2]:
            rpc.send("inference/ServerLive", b"")
        assert calls[2].refused("inference/ServerLive")[0] == "UNAVAILABLE"


def test_many_at_once_are_never_mixed_up(rpc: Any, pictures: Array) -> None:
    requests = [rpc.asked("digits", image=pictures[i : i + 1]).SerializeToString() for i in range(16)]
    alone = [rpc.send("inference/ModelInfer", request) for request in requests]
    assert len(set(alone)) > 8
    call = rpc.channel.unary_unary(rpc.path("inference/ModelInfer"))
    running = [call.future(requests[i % 16], timeout=60) for i in range(48)]
    assert [one.result() for one in running] == [alone[i % 16] for i in range(48)]


def test_what_is_in_flight_is_finished(serve: Any, connect: Any, bundles: dict[str, Path], pictures: Array) -> None:
    life = serve(digits=bundles["float"])
    server = life.__enter__()
    release = server.service.repository.find("digits")
    many = np.concatenate([pictures] * 400)
    with connect(server.grpc) as rpc:
        call = rpc.channel.unary_unary(rpc.path("inference/ModelInfer"))
        running = call.future(rpc.asked("digits", image=many).SerializeToString(), timeout=60)
        while not release.users and not running.done():
            time.sleep(0.001)
        held = release.users
        life.__exit__(None, None, None)
        answer = message("inference.ModelInferResponse").FromString(running.result())
    assert held == 1
    assert list(answer.outputs[0].shape) == [len(many), 10]
