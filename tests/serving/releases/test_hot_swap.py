"""New releases, good and bad, while clients ask."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watching import children, comes

from edgeferry_runtime.bundle import MANIFEST, PROBE, Bundle
from edgeferry_runtime.model import Model
from edgeferry_runtime.serving import renewal
from edgeferry_runtime.serving.service import Call, Service
from edgeferry_runtime.serving.settings import Limits

ROUNDS = int(os.environ.get("EDGEFERRY_FAULT_ROUNDS", "1"))
SWAPS = 4 * ROUNDS
CLIENTS = 8
PADDING = 1_000_000
"""Floats of weights: 4 MB, so that what is kept shows."""

Make = Callable[..., Bundle]
Watch = Callable[..., Any]
Run = Callable[..., Any]


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alive() -> int:
    """Count the models that are loaded."""
    gc.collect()
    return sum(type(thing) is Model for thing in gc.get_objects())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Client:
    """Asks without a pause, and checks every answer as it comes."""

    def __init__(self, service: Service, seed: int) -> None:
        self.service, self.random = service, np.random.default_rng(seed)
        self.answers, self.last = 0, 0

    async def ask(self) -> None:
        x = self.random.integers(-1000, 1000, (self.random.integers(1, 4), 4)).astype(np.float32)
        answer = await self.service.infer(Call("m", {"x": x}))
        (number,) = np.unique(answer.outputs["y"] - x)
        assert number == answer.release.version, "the answer is that of another release"
        assert number >= self.last, "it went back"
        self.last, self.answers = int(number), self.answers + 1

    async def work(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.ask()


async def longest_stall(stop: asyncio.Event) -> float:
    """Measure for how long the loop did nothing else at most, in seconds."""
    loop, longest = asyncio.get_running_loop(), 0.0
    while not stop.is_set():
        before = loop.time()
        await asyncio.sleep(0.001)
        longest = max(longest, loop.time() - before)
    return longest


def test_clients_ask_while_releases_come(
    tmp_path: Path, make: Make, publish: Callable[[Bundle, Path], None], watch: Watch, run: Run
) -> None:
    """No error, no answer mixed up, nobody goes back; and what is retired is gone."""
    folder = tmp_path / "m"
    first, *others = [make(tmp_path / f"parts{n}", n, padding=PADDING) for n in range(1, SWAPS + 2)]
    publish(first, folder)

    async def life() -> None:
        async with watch({"m": folder}) as server:
            before = alive()
            service, stop = Service(server.repository, Limits()), asyncio.Event()
            place = server.repository._loading.place
            clients = [Client(service, seed) for seed in range(CLIENTS)]
            working = [asyncio.create_task(client.work(stop)) for client in clients]
            stall = asyncio.create_task(longest_stall(stop))
            kept: list[tuple[int, int]] = []
            for bundle in others:
                publish(bundle, folder)
                await server.until(bundle.id[:12])
                await comes(lambda: len(server.listed()) == 1 and len(list(place.iterdir())) <= 2)
                gc.collect()
                kept.append((rss_bytes(), descriptors()))
            stop.set()
            await asyncio.gather(*working)
            assert all(client.last >= SWAPS for client in clients)
            grown = (kept[-1][0] - kept[0][0]) / 2**20
            print(
                f"{publish.__name__}: {SWAPS} swaps, {sum(client.answers for client in clients)} answers, 0 wrong; "
                f"{grown:.1f} MB more, {kept[-1][1] - kept[0][1]} descriptors more, "
                f"stalled for {await stall * 1000:.0f} ms at most"
            )
            assert kept[-1][1] <= kept[0][1] + 2
            assert alive() == before, "a model that was retired is still there"
            assert SWAPS < 20 or grown < 16, "a release has 4 MB of weights"

    run(life())


def spoil(folder: Path, how: str, make: Make, tiny: Any) -> None:
    """Put a bad release in the place of a bundle."""
    if how == "wrong outputs":
        make(folder, 2, wrong=1)
    elif how == "unknown operator":
        x, y = (tiny.onnx_value(name, ["n", 4]) for name in "xy")
        make(folder, 2, model=tiny.onnx_model([tiny.onnx_node("Warp", ["x"], ["y"])], [x], [y]))
    else:
        make(folder, 2)
        if how == "damaged manifest":
            (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-100])
        elif how == "other weights":
            (folder / "model.onnx").write_bytes(b"other")
        else:
            (folder / PROBE).unlink()


BAD = {
    "wrong outputs": "computes something else than its source",
    "unknown operator": "ONNX Runtime refuses it",
    "other weights": "model.onnx was changed after the bundle was made",
    "half written": "lacks the file 'probe.npz'",
    "damaged manifest": "its manifest.json is damaged",
}


def test_bad_releases_are_refused_and_a_repaired_one_taken(
    tmp_path: Path, make: Make, tiny: Any, watch: Watch, run: Run
) -> None:
    """Each is said once, with the reason, and tried once."""
    make(tmp_path / "m", 1)

    async def life() -> None:
        async with watch({"m": tmp_path / "m"}) as server:
            for how, said in BAD.items():
                spoil(tmp_path / "m", how, make, tiny)
                line = await server.until(said)
                assert line.startswith(f"m: refused what lies in {tmp_path}/m: ")
                assert line.endswith("; version 1 goes on answering")
                assert (server.listed(), await server.ask("m")) == ([("m", 1, "READY"), ("m", 2, "UNAVAILABLE")], 1)
                reason = server.repository.index()[1].reason
                assert (said in reason, "/tmp" in reason) == (True, False)
            await asyncio.sleep(0.2)
            assert len(server.said) == 1 + len(BAD), "one was tried again though it had not changed"
            shutil.rmtree(tmp_path / "m")
            make(tmp_path / "m", 2)
            await server.until("version 2, release")
            assert (server.listed()[-1], await server.ask("m")) == (("m", 2, "READY"), 2)

    run(life())


@pytest.mark.parametrize("publish", ["device"], indirect=True)
def test_a_release_that_is_refused_before_it_is_staged_is_listed_with_its_id(
    tmp_path: Path, make: Make, publish: Callable[[Bundle, Path], None], watch: Watch, run: Run
) -> None:
    folder = tmp_path / "m"
    publish(make(tmp_path / "good", 1), folder)

    async def life() -> None:
        async with watch({"m": folder}) as server:
            for number, missing in ((2, "probe.npz"), (3, "model.onnx")):
                bad = make(tmp_path / "bad", number)
                (bad.path / missing).unlink()
                publish(bad, folder)
                await server.until(f"lacks the file '{missing}'")
                listed = server.repository.index()[-1]
                assert (listed.version, listed.state.name, listed.release) == (2, "UNAVAILABLE", bad.id)

    run(life())


def test_an_engine_that_dies_of_a_release(tmp_path: Path, make: Make, watch: Watch, run: Run) -> None:
    make(tmp_path / "m", 1)

    async def life() -> None:
        async with watch({"m": tmp_path / "m"}) as server:
            others = children()
            make(tmp_path / "m", 2)
            child, *_ = await comes(lambda: children() - others)
            os.kill(child, signal.SIGSEGV)
            assert "the engine crashed with SIGSEGV" in await server.until("refused")
            assert await server.ask("m") == 1
            assert (await server.repository.load("m")).version == 2, "a client may have it tried again"

    run(life())


def test_a_model_that_is_overwritten_in_place_is_not_what_is_served(
    tmp_path: Path, make: Make, plus_tflite: Callable[[float], bytes], watch: Watch, run: Run
) -> None:
    """A mapped file that is cut short would kill the process with SIGBUS."""
    make(tmp_path / "m", 1, model=plus_tflite(1), rows=1)

    async def life() -> None:
        async with watch({"m": tmp_path / "m"}) as server:
            (tmp_path / "m" / "model.tflite").write_bytes(b"")
            await server.until("refused")
            assert await server.ask("m") == 1
            shutil.copyfile(
                make(tmp_path / "other", 1, model=plus_tflite(1), rows=1).artifact, tmp_path / "m" / "model.tflite"
            )
            await comes(lambda: server.listed() == [("m", 1, "READY")])

    run(life())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    made = subprocess.run(mount, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def fill(place: Path) -> Path:
    """Leave no room on a file system but 8 KB."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
        file.truncate(file.tell() - (1 << 13))
    return filler


def test_the_disk_is_full_where_a_release_arrives(
    small_disk: Path, tmp_path: Path, make: Make, watch: Watch, run: Run
) -> None:
    """What is written by halves is refused; what comes when there is room is taken."""
    new = make(tmp_path / "new", 2, padding=10_000)
    make(small_disk / "m", 1)

    async def life() -> None:
        async with watch({"m": small_disk / "m"}) as server:
            filler = fill(small_disk)
            with pytest.raises(shutil.Error, match="No space left"):
                shutil.copytree(new.path, small_disk / "m", dirs_exist_ok=True)
            await server.until("refused")
            assert await server.ask("m") == 1
            filler.unlink()
            shutil.copytree(new.path, small_disk / "m", dirs_exist_ok=True)
            await server.until("version 2")
            assert await server.ask("m") == 2

    run(life())


def test_the_disk_is_full_where_a_release_is_kept(
    small_disk: Path, tmp_path: Path, make: Make, watch: Watch, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again by itself, and said once."""
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    monkeypatch.setattr(renewal, "AGAIN_S", 0.05)
    make(tmp_path / "m", 1)

    async def life() -> None:
        async with watch({"m": tmp_path / "m"}) as server:
            filler = fill(small_disk)
            make(tmp_path / "m", 2, padding=10_000)
            line = await server.until("refused")
            assert "has no room for a release (No space left on device)" in line
            assert await server.ask("m") == 1
            await asyncio.sleep(0.3)
            assert len(server.said) == 2
            assert str(small_disk) not in server.repository.index()[1].reason
            filler.unlink()
            await server.until("version 2")
            assert await server.ask("m") == 2

    run(life())
    assert list(small_disk.iterdir()) == []
