"""Clients that keep a server waiting, and such that speak no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from unruly import Client, lets_in
from watching import until

from edgeferry_runtime.serving.settings import Limits

GET = b"GET /wait/%s HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module", params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def hasty(listen: Any, loop: Any) -> Iterator[Any]:
    """A port that waits for nobody, but long enough for a head that comes at once."""
    with listen(Limits(head_s=1, body_s=0.25, idle_s=0.5), loop=loop) as found:
        yield found


@pytest.fixture(scope="module")
def port(listen: Any) -> Iterator[Any]:
    """A port that waits."""
    with listen(Limits()) as found:
        yield found


def drip(client: Client, what: bytes, seconds: float = 20) -> None:
    """Send a byte now and then, until the server has had enough."""
    end = time.monotonic() + seconds
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < end:
            client.send(what)
            client.sock.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                client.sock.recv(1, socket.MSG_PEEK)
                break
    client.sock.settimeout(20)
    assert time.monotonic() < end, "the server's patience has no end"


def test_who_says_nothing_is_let_go_of(hasty: Any) -> None:
    with hasty.connect() as client:
        assert client.rest() == b""


@pytest.mark.parametrize("head", [b"G", b"GET /wait/x HTTP/1.1\r\nHost: a\r\nX: "])
def test_half_a_head_is_not_waited_for(hasty: Any, head: bytes) -> None:
    with hasty.connect() as client:
        answer = client.send(head).answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert "in time" in answer.error
        assert client.rest() == b""


def test_a_head_that_drips_is_cut_off(hasty: Any) -> None:
    with hasty.connect() as client:
        drip(client.send(b"GET / HTTP/1.1\r\n"), b"X")
        assert client.answer().status == 408


def test_empty_lines_keep_no_connection_open(hasty: Any) -> None:
    with hasty.connect() as client:
        assert client.send(GET % b"x").answer().body == b"x"
        drip(client, b"\r\n")
        client.rest()


@pytest.mark.parametrize("head", [b"Content-Length: 5\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"])
def test_half_a_body_is_not_waited_for(hasty: Any, head: bytes) -> None:
    with hasty.connect() as client:
        answer = client.send(POST, head).answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert "the rest of the body" in answer.error
        assert client.rest() == b""


def test_a_body_that_drips_is_cut_off(hasty: Any) -> None:
    with hasty.connect() as client:
        drip(client.send(POST, b"Content-Length: 1000\r\n\r\n"), b"x")
        assert client.answer().status == 408


def test_a_body_that_comes_steadily_is_waited_for(listen: Any) -> None:
    with listen(Limits(body_s=2)) as port, port.connect() as client:
        client.send(POST, b"Content-Length: 1000000\r\n\r\n")
        for _ in range(25):
            client.send(bytes(40_000))
            time.sleep(0.1)
        assert len(client.answer().body) == 1_000_000


def test_who_does_not_read_its_answer_is_let_go_of(hasty: Any) -> None:
    with hasty.connect() as client:
        client.send(b"GET /large/50000000 HTTP/1.1\r\n\r\n")
        hasty.wait_told(path="/large/50000000")
        until(lambda: hasty.open() == 0)
        assert len(client.rest()) < 50_000_000


def test_who_reads_its_answer_slowly_gets_all_of_it(listen: Any) -> None:
    """The kernel takes megabytes at a time, long after one another; what the client has taken counts."""
    with listen(Limits(head_s=1.5, body_s=1.5)) as port, port.connect() as client:
        client.send(b"GET /large/16000000 HTTP/1.1\r\nConnection: close\r\n\r\n")
        found = 0
        for _ in range(45):
            found += len(client.sock.recv(20_000))
            time.sleep(0.08)
        assert found + len(client.rest()) > 16_000_000


def test_who_is_not_read_from_is_not_late(listen: Any, loop: Any) -> None:
    body = bytes(1_000_000)
    with listen(Limits(body_s=1), loop=loop) as port, port.connect() as client:
        client.send(b"POST /later/2.4 HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n", body)
        assert client.answer().body == body


def test_a_connection_at_rest_is_closed(hasty: Any) -> None:
    with hasty.connect() as client:
        assert client.send(GET % b"x").answer().body == b"x"
        assert client.rest() == b""


def test_who_works_is_not_hurried(listen: Any) -> None:
    with listen(Limits(head_s=0.5, body_s=0.5)) as port, port.connect() as client:
        client.send(b"POST /later/1.2 HTTP/1.1\r\nContent-Length: 6\r\n\r\nslowly")
        assert client.answer().body == b"slowly"
        assert client.send(GET % b"next").answer().body == b"next"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HELO there\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_refused_with_a_reason(port: Any, garbage: bytes) -> None:
    with port.connect() as client:
        answer = client.send(garbage).answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.error == "the request: is not HTTP/1.1; send a well-formed one"
        assert client.rest() == b""
    assert port.told[-1]["status"] == 400


def test_a_head_without_end_is_refused(port: Any) -> None:
    with port.connect() as client:
        with contextlib.suppress(ConnectionError):
            client.send(b"GET / HTTP/1.1\r\n", *[b"X-%d: y\r\n" % i for i in range(20_000)])
        assert client.answer().status == 431


def test_a_head_without_end_is_refused_behind_a_request_too(port: Any) -> None:
    with port.connect() as client:
        client.send(GET % b"first", b"GET / HTTP/1.1\r\n", *[b"X-%d: y\r\n" % i for i in range(10_000)])
        assert client.answer().body == b"first"
        assert client.answer().status == 431


@pytest.mark.parametrize("field", [b"X: y\r\n", b"y"], ids=["many", "long"])
def test_a_trailer_without_end_is_refused(port: Any, field: bytes) -> None:
    with port.connect() as client:
        client.send(POST, b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.send(field * 10_000)
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert answer.error.startswith("the request's trailer: is too long")


def test_a_trailer_adds_nothing_to_the_head(port: Any) -> None:
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    with port.connect() as client:
        client.send(head, b"0\r\nContent-Encoding: gzip\r\n\r\n")
        assert client.answer().body == b""
        assert client.send(head, b"2\r\nhi\r\n0\r\nX: y\r\n\r\n", GET % b"next").answer().body == b"hi"
        assert client.answer().body == b"next"


def test_requests_in_one_packet_are_answered_in_order(port: Any) -> None:
    with port.connect() as client:
        client.send(*[GET % b"%d" % i for i in range(5)])
        assert [client.answer().body for _ in range(5)] == [b"%d" % i for i in range(5)]


def test_head_and_body_come_in_one_piece(port: Any) -> None:
    with port.connect() as client:
        for _ in range(20):
            piece = client.send(GET % b"whole").sock.recv(1 << 16)
            assert piece.startswith(b"HTTP/1.1 200 ")
            assert piece.endswith(b"\r\n\r\nwhole")


def test_a_head_alone_comes_too(port: Any) -> None:
    with port.connect() as client:
        head = client.send(b"HEAD /wait/x HTTP/1.1\r\nHost: a\r\n\r\n").sock.recv(1 << 16)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert head.endswith(b"\r\n\r\n")
        assert client.send(GET % b"next").answer().body == b"next"


def test_who_waits_to_be_told_to_go_on_is_told_at_once(port: Any) -> None:
    with port.connect() as client:
        client.send(POST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert client.sock.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = client.send(b"body").answer()
        assert answer.status == 200


@pytest.mark.parametrize("behind", [b"GARBAGE\r\n\r\n", b"GET /wait/y HTTP/1.1\r\nno colon\r\n\r\n"])
def test_garbage_behind_a_request_does_not_overtake_its_answer(port: Any, behind: bytes) -> None:
    with port.connect() as client:
        answer = client.send(GET % b"first", behind).answer()
        assert (answer.status, answer.body) == (200, b"first")
        assert client.answer().status == 400
        assert client.rest() == b""


def test_a_body_longer_than_it_says_is_no_request(port: Any) -> None:
    with port.connect() as client:
        client.send(POST, b"Content-Length: 2\r\n\r\nhi and more")
        assert client.answer().body == b"hi"
        client.rest()


def test_one_connection_too_many_is_told_to_come_again(listen: Any) -> None:
    with listen(Limits(connections=2)) as port, port.connect() as one, port.connect() as two:
        for client in (one, two):
            assert client.send(GET % b"x").answer().status == 200
        with port.connect() as three:
            answer = three.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert "connections" in answer.error
        one.close()
        until(lambda: lets_in(port, GET % b"x"))
        assert two.send(GET % b"x").answer().status == 200
