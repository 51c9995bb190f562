"""What `ferry serve` costs, beside other servers: the same model, engine, machine and client, in one run.

    python benchmarks/serve.py [--quick] [NAME...]     a table; NAME picks servers by a part of their names
    python benchmarks/serve.py --soak 10               ten minutes at full load: memory and descriptors

Servers come from the package index, each into a virtual environment below build/bench-serve; TorchServe needs Java.
They run one after the other, in rounds, the second the other way round. Every answer is compared with what the model
says. Targets, with 1, 8 and 32 clients: by REST binary at least twice the answers a second of each other server, at
most half its p99, no errors, and with one client a p50 at most 1.0 ms above the call in a process. In ten minutes
memory stays within 5 % after the first, and no descriptor is left open. Ends with status 1 where one is missed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from serving.model import Subject, prepare
from serving.servers import SERVERS, Running, Server, StartError, Way, processor_seconds, running

from edgeferry_runtime import load

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench-serve"
CLIENTS = (1, 8, 32)
SLICE_S = 10.0


@dataclass
class Cell:
    """What was measured of one way with so many clients, over all rounds."""

    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    server_s: float = 0.0
    client_s: float = 0.0
    asked: int = 0
    others_s: float = 0.0
    wall_s: float = 0.0

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.milliseconds) / self.seconds

    def percentile(self, part: float) -> float:
        """Return a percentile of their times, in milliseconds."""
        return float(np.percentile(self.milliseconds or [np.inf], part))


Table = dict[tuple[str, str, int], Cell]


def measure(way: Way, server: Server, subject: Subject, there: Running, load: tuple[int, float]) -> Cell:
    """Let the client of a way keep so many connections busy for so many seconds."""
    connections, seconds = load
    job = {
        "port": there.grpc_port if way.grpc else there.port,
        "requests": [base64.b64encode(request).decode() for request in way.requests(subject)],
        "expected": (subject.source_scores if server.keras else subject.scores).tolist(),
        "tolerance": 1e-3 if server.keras else 1e-6,
        "reader": way.reader,
        "connections": connections,
        "seconds": seconds,
    }
    client = HERE / "serving" / ("grpc_client.py" if way.grpc else "http_client.py")
    before, machine, began = processor_seconds(there.session), others_seconds(), time.monotonic()
    line, asked = [sys.executable, str(client)], json.dumps(job)
    done = subprocess.run(line, input=asked, text=True, check=True, stdout=subprocess.PIPE, start_new_session=True)
    wall, computed = time.monotonic() - began, processor_seconds(there.session) - before
    told, others = json.loads(done.stdout), others_seconds() - machine - computed
    times, errors = (told["seconds"], told["milliseconds"]), Counter(told["errors"])
    return Cell(*times, errors, computed, told["processor_s"], told["asked"], others, wall)


def others_seconds() -> float:
    """Return what the whole machine has computed, but for this process and its clients."""
    busy = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(busy) - busy[3] - busy[4]) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def add(cell: Cell, other: Cell) -> None:
    """Put what another round measured to it."""
    cell.seconds += other.seconds
    cell.milliseconds += other.milliseconds
    cell.errors += other.errors
    cell.server_s += other.server_s
    cell.client_s += other.client_s
    cell.asked += other.asked
    cell.others_s += other.others_s
    cell.wall_s += other.wall_s


def visit(server: Server, subject: Subject, seconds: float, table: Table) -> None:
    """Start a server, and ask it in each way."""
    with running(server, subject, BUILD / "servers") as there:
        for way in server.ways:
            for clients in CLIENTS:
                print(f"{server.name}, {way.name}, {clients}", file=sys.stderr, flush=True)
                cell = measure(way, server, subject, there, (clients, seconds))
                add(table.setdefault((server.name, way.name, clients), Cell()), cell)


def in_process(subject: Subject) -> list[float]:
    """Return the milliseconds of the same call in a process."""
    taken, end = [], time.perf_counter() + 1
    with load(subject.bundle, delegate="cpu:1") as model:
        while (start := time.perf_counter()) < end:
            model(subject.pictures[len(taken) % len(subject.pictures)][None])
            taken.append((time.perf_counter() - start) * 1000)
    return taken


def compare(servers: list[Server], quick: bool) -> bool:
    """Measure all of them, print the table, and tell whether the targets are met."""
    subject, table, alone = prepare(BUILD / "model"), {}, []
    missing: dict[str, str] = {}
    for turn in range(1 if quick else 2):
        alone += in_process(subject)
        for server in servers[:: -1 if turn % 2 else 1]:
            if server.name in missing:
                continue
            try:
                visit(server, subject, 1.0 if quick else 3.0, table)
            except (StartError, subprocess.CalledProcessError, FileNotFoundError) as error:
                missing[server.name] = (str(error).strip() or type(error).__name__).splitlines()[-1]
    show(table, missing, alone)
    return judge(table, alone)


def show(table: Table, missing: dict[str, str], alone: list[float]) -> None:
    """Print the table as the docs have it."""
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; the call in a process: {percentiles(alone)} ms")
    others = sum(cell.others_s for cell in table.values()) / sum(cell.wall_s for cell in table.values())
    print(f"others kept {max(0.0, others):.2f} cores busy; figures of more than 0.1 tell little\n")
    print("| server | asked by | clients | answers/s | p50 ms | p90 ms | p99 ms | errors | server, ms | client, ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (server, way, clients), cell in table.items():
        times = " | ".join(f"{cell.percentile(part):.2f}" for part in (50, 90, 99))
        computed = f"{1000 * cell.server_s / cell.asked:.2f} | {1000 * cell.client_s / len(cell.milliseconds):.2f}"
        errors = sum(cell.errors.values())
        print(f"| {server} | {way} | {clients} | {cell.rate:.0f} | {times} | {errors} | {computed} |")
    for server, reason in missing.items():
        print(f"| {server} | did not start: {reason} | | | | | | | | |")
    for (server, way, clients), cell in table.items():
        for error, count in cell.errors.most_common(3):
            print(f"{server}, {way}, {clients} clients: {count} times {error}")


def percentiles(milliseconds: list[float]) -> str:
    """Name three of them."""
    return ", ".join(f"p{part} {np.percentile(milliseconds, part):.2f}" for part in (50, 90, 99))


def judge(table: Table, alone: list[float]) -> bool:
    """Print each target and whether it is met."""
    ours = {clients: cell for (_, way, clients), cell in table.items() if way == "REST binary"}
    errors = sum(sum(cell.errors.values()) for (server, _, _), cell in table.items() if server == SERVERS[0].name)
    verdicts = [said(f"{errors} errors of ours", not errors)]
    if 1 in ours:
        over = ours[1].percentile(50) - float(np.median(alone))
        verdicts.append(said(f"p50 with one client {over:.2f} ms above the call in a process", over <= 1.0))
    for (server, way, clients), cell in table.items():
        if clients in ours and server != SERVERS[0].name:
            rate, tail = ours[clients].rate / cell.rate, ours[clients].percentile(99) / cell.percentile(99)
            text = f"{clients} clients, {server}, {way}: {rate:.2f} times its answers, {tail:.2f} times its p99"
            verdicts.append(said(text, rate >= 2 and tail <= 0.5))
    return all(verdicts)


def said(text: str, met: bool) -> bool:
    """Print a verdict."""
    print(f"{'met   ' if met else 'MISSED'} {text}")
    return met


def soak(minutes: float) -> bool:
    """Keep the server busy, and watch its memory and its descriptors between slices."""
    subject, server = prepare(BUILD / "model"), SERVERS[0]
    samples: list[tuple[float, float, int]] = []
    with running(server, subject, BUILD / "servers") as there:
        start, errors, answers = time.monotonic(), 0, 0
        idle = descriptors(there.session)
        while time.monotonic() - start < minutes * 60:
            cell = measure(server.ways[0], server, subject, there, (CLIENTS[-1], SLICE_S))
            answers, errors = answers + cell.asked, errors + sum(cell.errors.values())
            passed = time.monotonic() - start
            samples.append((passed, resident_mb(there.session), settle(there.session, idle)))
            print(f"{passed:6.0f} s  {samples[-1][1]:7.2f} MB  {samples[-1][2]:4} descriptors  {answers} answers")
            sys.stdout.flush()
    later = [memory for passed, memory, _ in samples if passed >= 60] or [memory for _, memory, _ in samples]
    grown = max(later) / later[0] - 1
    return all(
        [
            said(f"{errors} errors in {answers} answers", not errors),
            said(f"memory grew by {100 * grown:.2f} % after the first minute", grown <= 0.05),
            said(f"{samples[-1][2]} descriptors, of {idle} before", samples[-1][2] <= idle),
        ]
    )


def settle(process: int, idle: int) -> int:
    """Return the open descriptors, once the connections of a client that is gone are closed."""
    deadline = time.monotonic() + 5
    while (found := descriptors(process)) > idle and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def descriptors(process: int) -> int:
    """Return how many descriptors are open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def resident_mb(process: int) -> float:
    """Return the resident memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def main(arguments: list[str]) -> int:
    """Do what the command line asks for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if "--soak" in arguments:
        return not soak(float(arguments[arguments.index("--soak") + 1]))
    names = [argument for argument in arguments if not argument.startswith("--")]
    chosen = [server for server in SERVERS if not names or any(name in server.name for name in names)]
    return not compare(chosen, "--quick" in arguments)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(130)
