"""What a server was told: how models run, what it lets in, and where it listens."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Execution:
    """How each model runs.

    Attributes:
        delegate: Where to execute, in the grammar of ``--delegate``.
        workers: Calls of one model at the same time.
        queue: Requests to one model that may wait or run; one more is refused.
        max_batch: Rows to put together from several requests; 1 leaves requests alone.
        max_delay_ms: How long the first of them waits for others; 0 puts together what waits for a worker anyway.
    """

    delegate: str = "cpu:1"
    workers: int = field(default_factory=lambda: min(4, len(os.sched_getaffinity(0))))
    queue: int = 64
    max_batch: int = 1
    max_delay_ms: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What is let in.

    Attributes:
        body_bytes: The largest body of a request, compressed or not.
        tensor_bytes: The largest tensor, as the engine would hold it.
        timeout_s: A request's deadline where it says none, and the most that it may ask for.
        head_s: How long a client may take to send a request's head.
        body_s: How long a client may leave us waiting for the next bytes of a body, or for it to read an answer.
        idle_s: How long a connection may rest between two requests.
        connections: Connections at the same time.
        drain_s: How long requests in flight may take once the server is told to stop.
    """

    body_bytes: int = 32 << 20
    tensor_bytes: int = 64 << 20
    timeout_s: float = 30.0
    head_s: float = 10.0
    body_s: float = 10.0
    idle_s: float = 60.0
    connections: int = 16384
    drain_s: float = 30.0


@dataclass(frozen=True)
class Address:
    """Where it listens.

    Attributes:
        host: The interface; loopback unless the user says otherwise.
        port: HTTP; 0 takes a free one.
        grpc_port: gRPC; 0 takes a free one, None serves none.
        management_port: TorchServe's management calls, always on loopback; 0 takes a free one, None serves none.
        certificate: PEM file with the certificate chain; None speaks plain text.
        key: PEM file with its private key.
        token: What every client must show as a bearer; None asks for none. Never printed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    management_port: int | None = 8081
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Placed:
    """A model that the user named on the command line.

    Attributes:
        name: What clients call it.
        path: A bundle's folder, or a device's folder of releases, whose ``current`` counts.
        version: Its first version; None counts on from 1.
    """

    name: str
    path: Path
    version: int | None = None


@dataclass(frozen=True)
class Settings:
    """All of it.

    Attributes:
        placed: The models to begin with.
        repository: A folder of bundles, which clients may load by name; None lets nothing be loaded but `placed`.
        keep_versions: How many versions of a model stay side by side when new releases arrive.
        poll_s: How often folders are looked at for new releases.
        execution: How models run.
        limits: What is let in.
        address: Where it listens.
        access_log: Whether each request is told on stderr.
    """

    placed: tuple[Placed, ...] = ()
    repository: Path | None = None
    keep_versions: int = 1
    poll_s: float = 1.0
    execution: Execution = field(default_factory=Execution)
    limits: Limits = field(default_factory=Limits)
    address: Address = field(default_factory=Address)
    access_log: bool = True
