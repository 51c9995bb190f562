"""The client of every gRPC server: the same as the one for HTTP, by grpcio, with a channel for each connection.

    python grpc_client.py < JOB.json

grpcio costs the client some 150 us of processor time a request, which the server on the same cores lacks.
"""

from __future__ import annotations

import asyncio
import time

import grpc
from job import Answers, Job, Outcome, judge, perform

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def measure(job: Job) -> Outcome:
    """Keep every connection busy for the time, then read what came."""
    outcome, taken = Outcome(), []
    asyncio.run(_all(job, outcome, taken))
    outcome.asked += len(taken)
    judge(job, taken, outcome)
    return outcome


async def _all(job: Job, outcome: Outcome, taken: Answers) -> None:
    start = time.perf_counter() + job.seconds * 0.25
    end = start + job.seconds
    busy = [asyncio.create_task(_keep_busy(job, turn, end, (outcome, taken))) for turn in range(job.connections)]
    await asyncio.sleep(start - time.perf_counter())
    outcome.asked = len(taken)
    taken.clear()
    outcome.errors.clear()
    processor, start = time.process_time(), time.perf_counter()
    await asyncio.gather(*busy)
    outcome.seconds, outcome.processor_s = time.perf_counter() - start, time.process_time() - processor


async def _keep_busy(job: Job, turn: int, end: float, record: tuple[Outcome, Answers]) -> None:
    outcome, taken = record
    requests, options = job.bodies(), [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{job.port}", options=options) as channel:
        infer = channel.unary_unary(METHOD)
        while time.perf_counter() < end:
            turn = (turn + 1) % len(requests)
            sent_ns = time.perf_counter_ns()
            try:
                answer = await infer(requests[turn], timeout=30)
                taken.append((turn, time.perf_counter_ns() - sent_ns, answer))
            except grpc.aio.AioRpcError as error:
                outcome.errors[f"{error.code().name}: {error.details()}"] += 1


if __name__ == "__main__":
    perform(measure)
