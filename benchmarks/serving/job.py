"""What a client is to do, and what came of it: JSON in, JSON out."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Answers = list[tuple[int, int, bytes]]
"""Of each answer, which picture was asked for, how many nanoseconds it took, and its bytes."""


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        port: Where the server listens on loopback.
        requests: What is sent for each picture, in base64: a whole HTTP request, or a gRPC message.
        expected: What each answers.
        tolerance: How far a number may be from that.
        reader: How an answer is read: a key of `READERS`.
        connections: How many clients there are.
        seconds: How long to measure, after a warm-up of a quarter of that.
    """

    port: int
    requests: list[str]
    expected: list[list[float]]
    tolerance: float
    reader: str
    connections: int
    seconds: float

    def bodies(self) -> list[bytes]:
        """Return what is sent."""
        return [base64.b64decode(text) for text in self.requests]


@dataclass
class Outcome:
    """What came of a job.

    Attributes:
        seconds: How long was measured.
        milliseconds: Of each good answer, from the first byte sent to the last one that came.
        errors: How often each other thing happened.
        processor_s: What this process computed meanwhile.
        asked: How many answers came in all, those of the warm-up included.
    """

    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    processor_s: float = 0.0
    asked: int = 0


def read_open_inference(body: bytes) -> Any:
    """Read the Open Inference Protocol's JSON."""
    (output,) = json.loads(body)["outputs"]
    return output["data"]


def read_last_tensor(body: bytes) -> Any:
    """Read the tensor that comes last, as in its binary extension and in its gRPC message."""
    return np.frombuffer(body[-40:], "<f4")


def read_scores(body: bytes) -> Any:
    """Read ``{"scores": [...]}``, as the handlers that are written for this benchmark answer."""
    return json.loads(body)["scores"]


READERS = {"open inference": read_open_inference, "last tensor": read_last_tensor, "scores": read_scores}


def judge(job: Job, taken: Answers, outcome: Outcome) -> None:
    """Keep the times of answers that are right, and count what is wrong with the others."""
    read, expected = READERS[job.reader], np.asarray(job.expected)
    for turn, nanoseconds, answer in taken:
        head, _, body = answer.partition(b"\r\n\r\n") if answer.startswith(b"HTTP/1.1 ") else (b"", b"", answer)
        if head and not head.startswith(b"HTTP/1.1 200 "):
            outcome.errors[f"{head[9:12].decode()}: {body[:200].decode(errors='replace')}"] += 1
        elif not np.allclose(read(body), expected[turn], rtol=0, atol=job.tolerance):
            outcome.errors["a wrong answer"] += 1
        else:
            outcome.milliseconds.append(nanoseconds / 1e6)


def perform(measure: Callable[[Job], Outcome]) -> None:
    """Do what stands on stdin, and print what came of it."""
    print(json.dumps(vars(measure(Job(**json.load(sys.stdin))))))
