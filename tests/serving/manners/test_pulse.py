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
    async def busy(server: Any, pulse: Pulse, x: float, times: int) -> list[bool]:
        feeds = {"x": np.full((1, 1), x, "f4")}
        calls = [asyncio.ensure_future(server.service.infer(Call("slow", feeds))) for _ in range(times)]
        found = []
        while not all(call.done() for call in calls):
            found.append(pulse.beats())
            await asyncio.sleep(0.02)
        return [*found, pulse.beats()]

    with serve({"execution": Execution(workers=1)}, slow=slow) as server:
        began = time.monotonic()
        assert all(server.do(busy(server, Pulse(server.service.repository, 0.8), 2.0, 30)))
        assert time.monotonic() - began > 0.8
        found = server.do(busy(server, Pulse(server.service.repository, 0.2), 20.0, 1))
        assert found[0]
        assert not all(found)
        assert found[-1]
