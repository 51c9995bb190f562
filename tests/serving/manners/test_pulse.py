"""Whether models still move."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_runtime.serving.pulse import Pulse
from edgeferry_runtime.serving.service import Call
from edgeferry_runtime.serving.settings import Execution


def test_a_busy_lane_moves_and_one_that_finishes_nothing_does_not(serve: Any, slow: Path) -> None:
    async def ask(server: Any, x: float, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            await server.service.infer(Call("slow", {"x": np.full((1, 1), x, "f4")}))
            if time.monotonic() >= end:
                break

    async def busy(server: Any, pulse: Pulse, x: float, clients: int, seconds: float) -> list[bool]:
        calls = [asyncio.ensure_future(ask(server, x, seconds)) for _ in range(clients)]
        found = []
        while not all(call.done() for call in calls):
            found.append(pulse.beats())
            await asyncio.sleep(0.02)
        await asyncio.gather(*calls)
        return [*found, pulse.beats()]

    with serve({"execution": Execution(workers=1)}, slow=slow) as server:
        assert all(server.do(busy(server, Pulse(server.service.repository, 2.0), 2.0, 8, 2.5)))
        found = server.do(busy(server, Pulse(server.service.repository, 0.2), 20.0, 1, 0))
        assert found[0]
        assert not all(found)
        assert found[-1]
