"""The client of every HTTP server, a process of its own: it sends prepared bytes and measures each answer.

    python http_client.py < JOB.json

Each of so many connections sends a request, waits for the whole answer and sends the next: one thread with epoll, some
30 us of processor time a request. What came is read and compared after the last answer, outside the measurement.
"""

from __future__ import annotations

import select
import socket
import time

from job import Job, Outcome, judge, perform

PATIENCE_S = 30.0


class Connection:
    """One client: a connection that is kept, and the request on its way.

    Args:
        port: Where the server listens.
        turn: The first picture to send.
    """

    def __init__(self, port: int, turn: int) -> None:
        self._port, self.turn, self.sent_ns = port, turn, 0
        self._received = bytearray()
        self._end: int | None = None
        self.connect()

    def connect(self) -> None:
        """Open it anew."""
        self.socket = socket.create_connection(("127.0.0.1", self._port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, requests: list[bytes]) -> None:
        """Send the next request."""
        self._received.clear()
        self._end = None
        self.turn = (self.turn + 1) % len(requests)
        self.sent_ns = time.perf_counter_ns()
        self.socket.sendall(requests[self.turn])

    def receive(self) -> tuple[bytes, bool] | None:
        """Take what is there, and return the answer, once it is whole, and whether the server closes.

        Raises:
            OSError: If the server has closed already.
        """
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionResetError("closed by the server")
        self._received += part
        if self._end is None:
            self._end = _end(self._received)
        if self._end is None or len(self._received) < self._end:
            return None
        return bytes(self._received), b"connection: close" in self._received[:512].lower()


def _end(received: bytearray) -> int | None:
    """Return where an answer ends, once its head is there."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = bytes(received[:head_end]).lower()
    _, found, rest = head.partition(b"\r\ncontent-length:")
    if not found:
        raise ConnectionError("an answer without a length")
    return head_end + 4 + int(rest.split(b"\r\n", 1)[0])


def measure(job: Job) -> Outcome:
    """Keep every connection busy for the time, then read what came."""
    requests = job.bodies()
    poll, outcome = select.epoll(), Outcome()
    taken: list[tuple[int, int, bytes]] = []
    connections = [Connection(job.port, turn) for turn in range(job.connections)]
    by_number = {}
    for connection in connections:
        _begin(connection, poll, by_number, requests)
    start = time.perf_counter_ns() + int(job.seconds * 0.25e9)
    end, processor, started = start + int(job.seconds * 1e9), time.process_time(), False
    while (now := time.perf_counter_ns()) < end:
        if not started and now >= start:
            started, start, processor = True, now, time.process_time()
            outcome.asked = len(taken)
            taken.clear()
            outcome.errors.clear()
        for number, _ in poll.poll(PATIENCE_S) or [(-1, 0)]:
            if number < 0:
                outcome.errors[f"no answer in {PATIENCE_S:.0f} s"] += 1
                break
            _step(by_number[number], poll, by_number, requests, (taken, outcome))
    outcome.seconds, outcome.processor_s = (now - start) / 1e9, time.process_time() - processor
    outcome.asked += len(taken)
    judge(job, taken, outcome)
    return outcome


def _begin(connection: Connection, poll: select.epoll, by_number: dict[int, Connection], requests: list[bytes]) -> None:
    by_number[connection.socket.fileno()] = connection
    poll.register(connection.socket, select.EPOLLIN)
    connection.send(requests)


def _step(
    connection: Connection,
    poll: select.epoll,
    by_number: dict[int, Connection],
    requests: list[bytes],
    record: tuple[list[tuple[int, int, bytes]], Outcome],
) -> None:
    """Take what a connection has, and go on with it."""
    taken, outcome = record
    try:
        answer = connection.receive()
        if answer is None:
            return None
        taken.append((connection.turn, time.perf_counter_ns() - connection.sent_ns, answer[0]))
        if not answer[1]:
            return connection.send(requests)
    except OSError as error:
        outcome.errors[str(error)] += 1
    by_number.pop(connection.socket.fileno())
    connection.socket.close()
    connection.connect()
    return _begin(connection, poll, by_number, requests)


if __name__ == "__main__":
    perform(measure)
