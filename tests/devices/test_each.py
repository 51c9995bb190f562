"""The same on several devices at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeferry_devices import inventory
from edgeferry_devices.asking import Secrets
from edgeferry_devices.device import Device, Say
from edgeferry_devices.each import GRACE_S, Pace, each
from edgeferry_devices.inventory import Entry
from edgeferry_devices.outcome import Outcome
from edgeferry_devices.pushing import push
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import NotTriedError, UnreachableError, VerificationError

Boards = Callable[..., list[Path]]
FOUR = ("a", "b", "c", "d")


def where(device: Device, say: Say) -> str:
    say(f"{device.name}: looking")
    say("two\nlines")
    return device.exec(["echo", device.name]).stdout.decode().strip()


def test_values_come_in_order_and_once(boards: Boards) -> None:
    boards(*FOUR)
    said: list[str] = []
    done = each(["b", "local", "a", "b"], where, say=said.append)
    assert done == [Outcome("b", "b"), Outcome("local", "local"), Outcome("a", "a")]
    assert {line.partition(":")[0] for line in said} == {"a", "b", "local"}
    assert "a: looking" in said
    assert said.index("b: two") < said.index("b: lines")
    assert said[-1].endswith("done (3 of 3)")


def test_all_at_once(boards: Boards) -> None:
    boards(*FOUR)
    together = threading.Barrier(4, timeout=30)

    def meet(device: Device, say: Say) -> int:
        device.exec(["true"])
        return together.wait()

    assert {outcome.result() for outcome in each(FOUR, meet)} == {0, 1, 2, 3}


def test_no_more_than_asked_for() -> None:
    for name in FOUR:
        inventory.add(Entry(name, "127.0.0.1"))
    running: list[str] = []
    most: list[int] = []

    def count(device: Device, say: Say) -> None:
        running.append(device.name)
        most.append(len(running))
        time.sleep(0.05)
        running.remove(device.name)

    each(FOUR, count, Pace(jobs=2))
    assert max(most) == 2


def test_one_that_fails_does_not_stop_the_others(boards: Boards) -> None:
    boards(*FOUR)
    inventory.add(Entry("gone", "127.0.0.1", port=1))
    ended: list[str] = []
    done = each(["gone", *FOUR, "nobody"], where, Pace(ended=lambda o: ended.append(o.device)))
    assert [outcome.value for outcome in done] == [None, *FOUR, None]
    assert [outcome.kind for outcome in done] == ["unreachable", "", "", "", "", "failed"]
    assert sorted(ended) == sorted(["gone", *FOUR, "nobody"])


def test_progress_and_notes_are_taken_by_the_caller_alone(boards: Boards) -> None:
    boards(*FOUR)
    threads: set[int] = set()
    here = threading.get_ident()
    each(FOUR, where, Pace(ended=lambda _: threads.add(threading.get_ident())), lambda _: threads.add(here))
    assert threads == {here}


@pytest.mark.parametrize("answer", ["right", None])
def test_a_secret_is_asked_for_once_and_alone(
    boards: Boards, openssh: object, make_key: Callable, tmp_path: Path, answer: str | None
) -> None:
    """Whoever answers is not spoken to meanwhile, and whoever declines is not asked again."""
    make_key(tmp_path / "locked", "right")
    accepted = openssh.key.with_name("client_key.pub")  # type: ignore[attr-defined]
    before = accepted.read_text()
    accepted.write_text(before + (tmp_path / "locked.pub").read_text())
    boards(*FOUR, key=str(tmp_path / "locked"))
    happened: list[str] = []

    def ask(question: str) -> str | None:
        happened.append(f"asked {threading.get_ident()}")
        time.sleep(0.5)
        happened.append("answered")
        return answer

    try:
        done = each(FOUR, where, say=happened.append, secrets=Secrets(ask))
    finally:
        accepted.write_text(before)
    assert {outcome.kind for outcome in done} == {"" if answer else "not let in"}
    asked = happened.index(f"asked {threading.get_ident()}")
    assert happened[asked + 1] == "answered"
    assert happened.count("answered") == 1


def test_a_defect_is_raised_and_the_others_are_ended(boards: Boards) -> None:
    boards(*FOUR)

    def err(device: Device, say: Say) -> None:
        if device.name == "a":
            device.exec(["sleep", "0.5"])
            raise ZeroDivisionError
        device.exec(["sleep", "60"])

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        each(FOUR, err)
    assert time.monotonic() - started < 30


def test_canaries_come_first(boards: Boards) -> None:
    boards(*FOUR)
    begun: list[str] = []
    said: list[str] = []

    def note(device: Device, say: Say) -> None:
        begun.append(device.name)
        time.sleep(0.1 if device.name == "c" else 0)

    each(["c", "a", "b", "d"], note, Pace(canary=1), said.append)
    assert begun[0] == "c"
    assert said[0] == "c: done (1 of 4)"
    assert said[1] == "c: proven; now the other 3"


@pytest.mark.parametrize("canary", [1, 2, 9])
def test_a_canary_that_fails_saves_the_others(
    boards: Boards, bundle: Bundle, make_bundle: Callable[..., Bundle], canary: int
) -> None:
    roots = boards(*FOUR)
    each(FOUR, lambda device, say: push(bundle, device, say))
    bad = make_bundle(wrong=0.5)
    done = each(FOUR, lambda device, say: push(bad, device, say), Pace(canary=canary))
    assert [type(outcome.error) for outcome in done[:canary]] == [VerificationError] * min(canary, 4)
    for outcome in done[canary:]:
        with pytest.raises(NotTriedError, match=f"{outcome.device}: was not tried, since a, which came first, failed"):
            outcome.result()
    for root in roots:
        assert (root / "bundles/tiny/current").resolve().name == bundle.id
    for root in roots[canary:]:
        assert bad.id not in {release.name for release in (root / "bundles/tiny/releases").iterdir()}


class Finger:
    """Presses Ctrl-C in the caller's thread as soon as a device has ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def __call__(self, outcome: Outcome[object]) -> None:
        self.ended.append(outcome.device)
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["b", "local"])
def test_ctrl_c_ends_what_runs_and_names_what_is_not_done(
    boards: Boards, bundle: Bundle, name: str, home: Path
) -> None:
    boards("a", "b", "c", "d")
    options = {"num_runs": 10**9, "max_secs": 100.0}
    begun = threading.Event()

    def work(device: Device, say: Say) -> None:
        if device.name == "a":
            begun.wait(30)
            return
        push(bundle, device)
        with device.open_agent(["onnx"]) as agent:
            begun.set()
            agent.take("bench", name="tiny", id=bundle.id, options=options, device="pi", timeout=100)

    finger, said = Finger(), []
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        each(["a", name, "c", "d"], work, Pace(jobs=2, ended=finger), said.append)
    assert time.monotonic() - started < 30 + GRACE_S
    assert finger.ended == ["a"]
    assert said[-2:] == [f"ended: {name}", "not begun: c, d"]
    (again,) = each([name], lambda device, _: push(bundle, device))
    assert again.result().up_to_date
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ferry ")]


def test_an_interrupted_device_is_not_opened_again(boards: Boards, openssh: object) -> None:
    from edgeferry_devices.device import open_device

    boards("a")
    with open_device("a") as device:
        device.exec(["true"])
        device.interrupt()
        with pytest.raises(UnreachableError, match=r"was interrupted|connection was lost"):
            device.exec(["true"])
        device.close()
        with pytest.raises(UnreachableError, match="was interrupted"):
            device.exec(["true"])
