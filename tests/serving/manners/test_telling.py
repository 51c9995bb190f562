"""What is told of requests: the access log, and figures for Prometheus."""

from __future__ import annotations

import json
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_plain
from watching import until

from edgeferry_runtime.serving.figures import MOST, Figures
from edgeferry_runtime.serving.lines import MOST as MOST_LINES
from edgeferry_runtime.serving.lines import LineHandler, Lines
from edgeferry_runtime.serving.settings import Limits
from edgeferry_runtime.serving.telling import Telling, Visit, tell_model, tell_times

FIELDS = (
    *("time", "protocol", "client", "method", "path", "status", "ms", "queue_ms", "compute_ms", "model", "version"),
    *("bytes_in", "bytes_out"),
)


@pytest.fixture(scope="module")
def port(listen: Any) -> Iterator[Any]:
    with listen(Limits()) as found:
        yield found


def samples(text: str, read: Any = read_plain) -> dict[tuple[str, ...], float]:
    """Read an exposition: the value of each sample by its name and its labels' values, in the order of their names."""
    return {
        (s.name, *(value for _, value in sorted(s.labels.items()))): s.value
        for family in read(text)
        for s in family.samples
    }


def infer(url: str, model: str, size: int = 8) -> int:
    tensor = {"name": "image", "shape": [1, 1, 8, size], "datatype": "FP32", "data": [0.5] * 8 * size}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", body)
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def metrics(url: str, accept: str = "") -> tuple[str, str]:
    request = urllib.request.Request(f"{url}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def test_a_request_is_one_line_without_what_is_secret(port: Any) -> None:
    request = b"POST /echo?key=hush HTTP/1.1\r\nAuthorization: Bearer hush\r\nContent-Length: 5\r\n\r\nhello"
    assert port.ask(request).status == 200
    line = port.wait_told(path="/echo")
    assert tuple(line) == FIELDS
    expected = {"protocol": "http", "client": "127.0.0.1", "method": "POST", "status": 200, "bytes_in": 5}
    assert expected.items() <= line.items()
    assert line["ms"] > 0
    assert line["time"].endswith("Z")
    assert "hush" not in json.dumps(line)


def test_a_path_cannot_forge_a_line(port: Any) -> None:
    assert port.ask(b"GET /wait/%0a%7b%22status%22:200%7d%1b%5b2J%ff HTTP/1.1\r\n\r\n").status == 200
    assert port.wait_told(path='/wait/\n{"status":200}\x1b[2J\ufffd')["status"] == 200


def test_a_long_path_is_cut(port: Any) -> None:
    port.ask(b"GET /wait/" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n")
    assert len(until(lambda: next((t for t in port.told if "/wait/xx" in t["path"]), None))["path"]) == 512


def test_figures_are_those_of_the_requests(serve: Any, bundles: dict[str, Path]) -> None:
    with serve(digits=bundles["float"]) as server:
        assert [infer(server.http, "digits") for _ in range(3)] == [200] * 3
        assert infer(server.http, "digits", size=7) == 400
        assert infer(server.http, "stranger") == 404
        text, kind = metrics(server.http)
        assert kind.startswith("text/plain; version=0.0.4")
        found = samples(text)
        assert found["edgeferry_requests_total", "digits", "http", "2xx", "1"] == 3
        assert found["edgeferry_requests_total", "", "http", "4xx", ""] == 1
        assert found["edgeferry_requests_total", "digits", "http", "4xx", "1"] == 1
        assert found["edgeferry_request_seconds_count", "digits"] == 4
        for name in ("queue", "compute"):
            assert found[f"edgeferry_{name}_seconds_count", "digits"] == 3
        assert found["edgeferry_request_seconds_sum", "digits"] > found["edgeferry_compute_seconds_sum", "digits"] > 0
        assert found["edgeferry_requests_in_flight", "http"] == 1
        assert found["edgeferry_queue_length", "digits", "1"] == 0
        assert found["edgeferry_model_state", "digits", "READY", "1"] == 1
        assert found["edgeferry_releases_total", "digits", "loaded"] == 1
        assert found["process_open_fds",] > 0
        assert "stranger" not in text
        text, kind = metrics(server.http, "application/openmetrics-text; version=1.0.0; charset=utf-8, text/plain;q=.5")
        assert kind.startswith("application/openmetrics-text")
        assert samples(text, read_openmetrics)["edgeferry_requests_total", "digits", "http", "2xx", "1"] == 3


def test_labels_are_bounded_whatever_comes() -> None:
    figures = Figures()
    for number in range(MOST + 300):
        figures.leave(Visit("http", "", "", "", model=f"m{number}", version=number), 200, 1.0)
    found = [family for family in figures.registry.collect() if family.name == "edgeferry_requests"]
    counts = {s.labels["model"]: s.value for s in found[0].samples if s.name.endswith("_total")}
    assert len(counts) == MOST + 1
    assert counts["other"] == 300


def test_a_visit_is_told_from_within() -> None:
    lines: list[bytes] = []
    telling = Telling(lines.append)
    tell_model("strangers", 1)
    visit = telling.begin("grpc", "10.0.0.1", "", "/inference.GRPCInferenceService/ModelInfer")
    tell_model("digits", 2)
    for _ in range(2):
        tell_times(0.5, 1.25)
    telling.end(visit, "OK")
    line = json.loads(lines[0])
    assert {"model": "digits", "version": 2, "queue_ms": 1.0, "compute_ms": 2.5, "status": "OK"}.items() <= line.items()


def test_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    read, write = os.pipe()
    lines = Lines(write)
    for number in range(MOST_LINES + 4000):
        lines.write(b"%06d " % number + b"x" * 100)
    assert lines.dropped
    with os.fdopen(read, "rb") as pipe:
        lines.close(0)
        closing = threading.Timer(0.2, lambda: None)
        closing.start()
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.extend(pipe))
        reader.start()
        lines.close(30)
        os.close(write)
        reader.join()
        closing.join()
    numbers = [int(line[:6]) for line in found]
    assert len(numbers) + lines.dropped == MOST_LINES + 4000
    assert numbers == sorted(numbers)


def test_a_reader_who_left_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    lines = Lines(write)
    lines.say("to nobody")
    lines.close(30)
    os.close(write)
    assert lines.dropped == 1


def test_what_libraries_log_is_one_line_of_json(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        lines = Lines(file.fileno())
        logger, handler = logging.getLogger("tests.library"), LineHandler(lines)
        logger.addHandler(handler)
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("it failed")
        logger.removeHandler(handler)
        lines.close(30)
    (line,) = (tmp_path / "log").read_text().splitlines()
    told = json.loads(line)
    assert (told["level"], told["logger"]) == ("error", "tests.library")
    assert "ValueError: two\nlines" in told["text"]
