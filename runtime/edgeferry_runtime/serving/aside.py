"""Work on requests that would keep others waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from edgeferry_runtime.serving.service import Service

AT_ONCE = 1 << 20
"""Bytes of a request that others wait for while it is read; a larger one is read `aside`."""

Result = TypeVar("Result")

Do = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Does work, and returns its result."""


async def aside(service: Service, work: Callable[[], Result]) -> Result:
    """Do what takes long, or much memory, in a thread, one after the other, while other requests go on."""
    async with service.reading:
        return await asyncio.to_thread(work)


@contextlib.asynccontextmanager
async def steps(service: Service, size: int) -> AsyncIterator[Do]:
    """Read a request of so many bytes in several steps: a large one's `aside`, and no other's between them."""
    if size <= AT_ONCE:
        yield _here
    else:
        async with service.reading:
            yield asyncio.to_thread


async def _here(work: Callable[[], Any]) -> Any:
    return work()
