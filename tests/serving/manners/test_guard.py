"""Who may enter, and how much may be brought along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import until

from edgeferry_runtime.serving.settings import Limits

TOKEN = "correct-horse-battery-staple"
CLOSE = {"connection": "close"}
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def port(listen: Any) -> Iterator[Any]:
    with listen(Limits(body_bytes=1000)) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(listen: Any) -> Iterator[Any]:
    with listen(Limits(), token=TOKEN) as found:
        yield found


def sized(size: int, *more: bytes) -> bytes:
    return b"".join([POST, *more, b"Content-Length: %d\r\n\r\n" % size])


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Bearer " + TOKEN.encode(), 200),
        (b"bearer  " + TOKEN.encode(), 200),
        (b"Bearer " + TOKEN.encode()[:-1], 401),
        (b"Bearer " + TOKEN.encode() + b"x", 401),
        (b"Bearer", 401),
        (b"Bearer \xff\xfe\x80", 401),
        (b"Basic " + TOKEN.encode(), 401),
        (TOKEN.encode(), 401),
        (None, 401),
    ],
)
def test_only_the_token_opens(guarded: Any, header: bytes | None, status: int) -> None:
    shown = b"Authorization: " + header + b"\r\n" if header is not None else b""
    answer = guarded.ask(sized(2, shown) + b"hi")
    assert answer.status == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "token" in answer.error
        assert TOKEN not in answer.error


def test_health_is_told_without_a_token_and_nothing_else(guarded: Any) -> None:
    assert guarded.ask(b"GET /ping HTTP/1.1\r\n\r\n").body == b"pong"
    assert guarded.ask(b"POST /ping HTTP/1.1\r\nContent-Length: 0\r\n\r\n").status == 401
    assert guarded.ask(b"GET /wait/x HTTP/1.1\r\n\r\n").status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Sec-Fetch-Site: cross-site\r\n", 403),
        (b"Sec-Fetch-Site: same-site\r\n", 403),
        (b"Sec-Fetch-Site: same-origin\r\nOrigin: http://elsewhere\r\n", 200),
        (b"Sec-Fetch-Site: none\r\n", 200),
        (b"Origin: http://elsewhere\r\n", 403),
        (b"Origin: null\r\n", 403),
        (b"Origin: http://a\r\n", 200),
    ],
)
def test_pages_of_other_sites_do_no_harm(port: Any, headers: bytes, status: int) -> None:
    assert port.ask(sized(2, headers) + b"hi").status == status
    assert port.ask(b"GET /ping HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n").status == 200


@pytest.fixture(scope="module")
def local(listen: Any) -> Iterator[Any]:
    with listen(Limits(), local=True) as found:
        yield found


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:80", b"127.0.0.1:8000", b"[::1]", b"[::1]:8000"])
def test_pages_of_this_machine_may_act(local: Any, host: bytes) -> None:
    browser = b"Host: %s\r\nOrigin: http://%s\r\nContent-Length: 2\r\n\r\nhi" % (host, host)
    assert local.ask(b"POST /echo HTTP/1.1\r\n" + browser).body == b"hi"


@pytest.mark.parametrize("host", [b"a", b"a:8000", b"127.0.0.1.a", b"[a]:1", b"", b"localhost:a", b"\xff"])
def test_names_that_others_give_this_machine_do_no_harm(local: Any, host: bytes) -> None:
    for browser in (b"Sec-Fetch-Site: same-origin\r\n", b"Origin: http://%s\r\n" % host):
        head = b" HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n" % host
        answer = local.ask(b"POST /echo" + head + browser + b"\r\nhi")
        assert (answer.status, "otherwise than localhost" in answer.error) == (403, True)
        assert local.ask(b"POST /echo" + head + b"\r\nhi").body == b"hi"
        assert local.ask(b"GET /ping HTTP/1.1\r\nHost: a\r\n" + browser + b"\r\n").body == b"pong"


def test_a_token_or_a_name_of_its_own_lets_pages_act(listen: Any, port: Any) -> None:
    shown = b"Origin: http://a\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
    with listen(Limits(), token=TOKEN, local=True) as guarded:
        assert guarded.ask(sized(2, shown) + b"hi").body == b"hi"
    assert port.ask(sized(2, shown) + b"hi").body == b"hi"


def test_both_ports_of_a_server_on_loopback_are_local(server: Any) -> None:
    browser = {"Host": "a", "Origin": "http://a"}
    for url in (f"{server.http}/v2/repository/index", f"{server.management}/models?url=x"):
        assert requests.post(url, headers=browser, timeout=30).status_code == 403


def test_a_body_may_be_as_large_as_is_allowed(port: Any) -> None:
    assert port.ask(sized(1000) + b"x" * 1000).body == b"x" * 1000


def test_a_body_that_says_it_is_too_large_is_not_waited_for(port: Any) -> None:
    for more in (b"", b"Expect: 100-continue\r\n"):
        with port.connect() as client:
            answer = client.send(sized(1001, more)).answer()
            assert (answer.status, answer.headers["connection"]) == (413, "close")
            assert "1000 bytes" in answer.error
            assert client.rest() == b""


def test_a_body_that_grows_too_large_is_cut_off(port: Any) -> None:
    with port.connect() as client:
        client.send(POST, b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(11):
            client.send(b"64\r\n", b"x" * 100, b"\r\n")
        assert client.answer().status == 413
        assert client.rest() == b""


def test_who_is_asked_to_go_on_is(port: Any) -> None:
    with port.connect() as client:
        client.send(sized(2, b"Expect: 100-continue\r\n"))
        assert client.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.send(b"hi").answer().body == b"hi"


@settings(max_examples=25)
@given(parts=st.lists(st.binary(min_size=1, max_size=120), max_size=8), cuts=st.lists(st.integers(1, 300), max_size=4))
def test_a_body_arrives_whole_however_it_is_cut(port: Any, parts: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    with port.connect() as client:
        client.send(POST, b"Transfer-Encoding: chunked\r\n\r\n")
        for cut in cuts:
            client.send(wire[:cut])
            wire = wire[cut:]
        assert client.send(wire).answer().body == b"".join(parts)


def test_all_bodies_together_are_bounded_and_their_room_comes_back(port: Any) -> None:
    clients = [port.connect().send(sized(1000), bytes(999)) for _ in range(8)]
    try:
        until(lambda: port.guard._held == 8 * 999)
        answer = port.ask(sized(9) + b"too large")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert port.ask(b"GET /ping HTTP/1.1\r\n\r\n").status == 200
    finally:
        for client in clients:
            client.close()
    until(lambda: port.guard._held == 0)
    assert port.ask(sized(2) + b"hi").status == 200


def test_an_answer_that_leaves_the_body_unread_arrives_and_is_the_last(listen: Any) -> None:
    with listen(Limits()) as port, port.connect() as client:
        client.send(b"POST /unread HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n", b"x" * 100_000)
        port.wait_told(path="/unread")
        for _ in range(5):
            client.send(b"x" * 100_000)
        answer = client.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (422, b"never read", "close")
        assert client.rest() == b""


def test_a_connection_is_used_again(port: Any) -> None:
    with port.connect() as client:
        for word in (b"one", b"two"):
            answer = client.send(sized(3), word).answer()
            assert answer.body == word
            assert "connection" not in answer.headers


def test_who_leaves_in_the_middle_of_a_body_is_told_of_and_no_defect(port: Any, caplog: Any) -> None:
    with port.connect() as client:
        client.send(sized(77), b"x" * 7)
        until(lambda: port.guard._held)
    assert port.wait_told(path="/echo", bytes_in=7, status=408)
    assert not [record for record in caplog.records if record.name == "uvicorn.error"]


def test_what_nobody_expects_names_no_file_and_no_secret(port: Any, caplog: Any) -> None:
    answer = port.ask(b"GET /broken HTTP/1.1\r\n\r\n")
    assert answer.status == 500
    assert "RuntimeError" in answer.error
    assert not any(word in answer.error for word in ("secret", "/", "Traceback"))
    assert "the secret of" in until(lambda: caplog.text)


def test_who_is_about_to_stop_refuses_what_is_new(listen: Any) -> None:
    with listen(Limits()) as port, port.connect() as client:
        port.service.stopping = True
        assert client.send(b"GET /ping HTTP/1.1\r\n\r\n").answer().status == 200
        answer = port.ask(sized(2) + b"hi")
        assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
