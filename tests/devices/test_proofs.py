"""A release counts only once it is proven on the delegate, and by the engine, that it will run with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_devices import inventory
from edgeferry_devices.keeping import Release, gc, releases, rollback
from edgeferry_devices.profiling import profile
from edgeferry_devices.pushing import push, terms
from edgeferry_devices.running import run_on_device
from edgeferry_runtime import machine, proofs
from edgeferry_runtime.benchmark import BenchOptions
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DelegationError, EngineError, UnknownNameError, VerificationError
from edgeferry_runtime.proofs import Terms
from edgeferry_runtime.store import Store

local = pytest.mark.parametrize("place", ["local"], indirect=True)
near_and_far = pytest.mark.parametrize("place", ["local", "openssh"], indirect=True)


def release(place: Any, bundle: Bundle) -> Release:
    return next(found for found in releases(place.device) if found.id == bundle.id)


def pretend(place: Any, bundle: Bundle, **changed: Any) -> None:
    """Write another proof than the one that was kept."""
    path = place.root / "bundles/tiny/proofs" / f"{bundle.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@near_and_far
def test_the_proof_is_kept_and_another_delegate_proves_again(place: Any, bundle: Bundle) -> None:
    first = push(bundle, place.device)
    assert (first.proof["delegate"], first.unmet) == ("cpu", "")
    kept = release(place, bundle).proof
    assert kept == first.proof
    assert set(kept) == {"delegate", "engine", "execution", "at"}
    assert push(bundle, place.device).proof == kept
    again = push(bundle, place.device, wanted=terms("cpu:2"))
    assert (again.up_to_date, again.bytes_sent, again.unmet) == (False, 0, "it was proven on cpu")
    assert again.figures
    assert push(bundle, place.device, wanted=terms("cpu:2")).up_to_date
    assert push(bundle, place.device).proof["delegate"] == "cpu:2"


@local
def test_what_another_engine_proved_is_proven_again(place: Any, bundle: Bundle) -> None:
    push(bundle, place.device, wanted=terms("cpu:2"))
    pretend(place, bundle, engine={"name": "onnxruntime", "version": "0.1"})
    again = push(bundle, place.device)
    assert again.unmet == "onnxruntime 0.1, which proved it, is there no more"
    assert again.proof["delegate"] == "cpu:2"
    assert push(bundle, place.device).up_to_date


@local
@pytest.mark.parametrize("text", ["", "[]", "{", '{"delegate": 3, "engine": {"name": "a", "version": "b"}, "at": ""}'])
def test_a_proof_that_is_lost_is_made_again(place: Any, bundle: Bundle, text: str) -> None:
    push(bundle, place.device)
    path = place.root / "bundles/tiny/proofs" / f"{bundle.id}.json"
    path.write_text(text)
    assert release(place, bundle).proof == {}
    assert push(bundle, place.device).unmet == "what it was proven with is not known"
    assert push(bundle, place.device).up_to_date


@near_and_far
def test_where_the_new_proof_fails_the_old_one_and_the_release_stay(place: Any, bundle: Bundle) -> None:
    push(bundle, place.device)
    kept = release(place, bundle)
    with pytest.raises(EngineError, match=f"release {bundle.id[:12]} stays the current one"):
        push(bundle, place.device, wanted=terms("gpu"))
    assert release(place, bundle) == kept
    assert kept.state == "current"
    assert push(bundle, place.device).up_to_date


@local
def test_a_new_release_that_its_delegate_refuses_does_not_count(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    old, new = make_bundle(), make_bundle(padding=10)
    push(old, place.device)
    with pytest.raises(EngineError):
        push(new, place.device, wanted=terms("gpu"))
    assert (release(place, old).state, release(place, new).state) == ("current", "failed")
    assert release(place, new).proof == {}


@local
def test_rollback_proves_where_the_release_was_proven(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    old, new = make_bundle(), make_bundle(padding=10)
    push(old, place.device, wanted=terms("cpu:2"))
    push(new, place.device)
    done = rollback("tiny", place.device)
    assert (done["id"], done["delegate"]) == (old.id, "cpu:2")
    pretend(place, new, delegate="gpu")
    with pytest.raises(EngineError, match=f"release {old.id[:12]} stays the current one"):
        rollback("tiny", place.device)
    assert release(place, old).state == "current"


@local
def test_who_only_runs_or_measures_is_not_held_up(place: Any, bundle: Bundle) -> None:
    push(bundle, place.device)
    pretend(place, bundle, delegate="gpu", engine={"name": "onnxruntime", "version": "0.1"})
    kept = release(place, bundle).proof
    run_on_device(bundle.path, place.device, {"x": np.zeros((1, 8), np.float32)})
    quick = BenchOptions(delegate="cpu:1", min_secs=0, num_runs=2, warmup_runs=1)
    (measured,) = profile([bundle], [place.name], quick).check().profiles
    assert measured.engine["delegate"] == "cpu:1"
    assert release(place, bundle).proof == kept


@local
def test_proofs_go_with_their_releases(place: Any, make_bundle: Callable[..., Bundle]) -> None:
    bundles = [make_bundle(padding=size) for size in (1, 2, 3)]
    for each in bundles:
        push(each, place.device)
    folder = place.root / "bundles/tiny/proofs"
    assert {path.stem for path in folder.iterdir()} == {each.id for each in bundles[1:]}
    (folder / f".{bundles[0].id}.json.1234").touch()
    (folder / f"{bundles[0].id}.json").touch()
    assert [row["kind"] for row in gc(place.device)["removed"]] == ["proof", "proof"]
    assert {path.stem for path in folder.iterdir()} == {each.id for each in bundles[1:]}


@local
def test_every_node_is_asked_for(place: Any, bundle: Bundle) -> None:
    push(bundle, place.device, wanted=terms("gpu,cpu"))
    with pytest.raises(DelegationError, match="is not fully delegated to gpu,cpu"):
        push(bundle, place.device, wanted=terms("gpu,cpu", full=True))
    assert push(bundle, place.device, wanted=terms("gpu,cpu")).up_to_date
    assert push(bundle, place.device, wanted=terms("cpu", full=True)).proof["execution"]["full"]


def test_the_commands_name_what_executes(ferry: Callable, bundle: Bundle, make_bundle: Callable[..., Bundle]) -> None:
    code, out, _ = ferry("push", bundle.path, "local", "--delegate", "gpu,cpu")
    assert code == 0
    assert f"proven by onnxruntime {machine.installed_engines()['onnxruntime']} on gpu,cpu" in out
    assert "\nfell back from gpu" in out
    code, out, _ = ferry("push", bundle.path, "local")
    assert "up to date; proven by onnxruntime" in out
    code, out, err = ferry("deploy", bundle.path, "local", "--delegate", "cpu:2")
    assert (code, "proven again" in out, "on cpu:2" in out) == (0, True, True)
    assert "it was proven on gpu,cpu" in err
    code, out, _ = ferry("releases", "local")
    assert "on cpu:2, 2" in out
    (row,) = json.loads(ferry("releases", "local", "--json")[1])["releases"]
    assert row["proof"]["execution"]["delegate"] == "cpu:2"
    assert json.loads(ferry("push", bundle.path, "local", "--json")[1])["proof"] == row["proof"]
    other = make_bundle(padding=5)
    assert ferry("push", other.path, "local", "--delegate", "gpu,cpu")[0] == 0
    code, out, _ = ferry("rollback", "tiny", "local")
    assert (code, "on cpu:2" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--delegate", "gpu"), 1, "stays the current one"),
        (("--delegate", "gpu,cpu", "--require-full-delegation"), 3, "is not fully delegated to gpu,cpu"),
        (("--delegate", "tpu"), 2, "tpu"),
        (("--delegate", "cpu,cpu"), 2, "names cpu twice"),
    ],
)
@pytest.mark.parametrize("command", ["push", "deploy"])
def test_refusals(
    ferry: Callable, bundle: Bundle, command: str, words: tuple[str, ...], status: int, said: str
) -> None:
    assert ferry("push", bundle.path, "local")[0] == 0
    code, _, err = ferry(command, bundle.path, "local", *words)
    (line,) = [line for line in err.splitlines() if line.startswith("ferry: error: ")]
    assert (code, said in line, "Traceback" in err) == (status, True, False)
    assert "up to date; proven by" in ferry("push", bundle.path, "local")[1]


def test_a_delegate_that_there_is_not_is_refused_before_the_device_is_reached(ferry: Callable, bundle: Bundle) -> None:
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    assert ferry("push", bundle.path, "gone", "--delegate", "tpu")[0] == 2
    with pytest.raises(UnknownNameError):
        terms("tpu")


def test_a_wrong_release_is_wrong_on_every_delegate(bundle: Bundle, make_bundle: Callable[..., Bundle]) -> None:
    from edgeferry_devices.local import LocalDevice

    push(bundle, LocalDevice())
    with pytest.raises(VerificationError, match="stays the current one"):
        push(make_bundle(wrong=0.5), LocalDevice(), wanted=terms("gpu,cpu"))


def proof_of(**changed: Any) -> dict[str, Any]:
    version = machine.installed_engines()["onnxruntime"]
    engine = {"name": "onnxruntime", "version": version}
    return {"delegate": "gpu", "engine": engine, "execution": {"full": False}, "at": "2026-01-01", **changed}


@pytest.mark.parametrize(
    ("wanted", "proof", "unmet"),
    [
        (Terms(), proof_of(), ""),
        (Terms("gpu"), proof_of(), ""),
        (Terms("gpu,cpu"), proof_of(), "it was proven on gpu"),
        (Terms(full=True), proof_of(), "not every node was on gpu"),
        (Terms("gpu", full=True), proof_of(execution={"full": True}), ""),
        (Terms(), proof_of(engine={"name": "onnxruntime", "version": "1"}), "onnxruntime 1, which proved it, "),
        (Terms(), proof_of(engine={"name": "other", "version": "1"}), "other 1, which proved it, is there no more"),
        (Terms(), {}, "what it was proven with is not known"),
        (Terms("cpu", any_proof=True), {}, ""),
    ],
)
def test_terms(wanted: Terms, proof: dict[str, Any], unmet: str) -> None:
    assert wanted.unmet(proof).startswith(unmet)
    assert bool(wanted.unmet(proof)) == bool(unmet)


def test_a_proof_is_written_in_one_step(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "root")
    (store.root / "bundles/tiny").mkdir()
    proofs.keep(store, "tiny", "abc", {**proof_of(), "figures": []})
    assert proofs.read(store, "tiny", "abc") == proof_of()
    assert [path.name for path in (store.root / "bundles/tiny/proofs").iterdir()] == ["abc.json"]
    assert proofs.read(store, "tiny", "other") == {}
    assert len(proofs.orphans(store, "tiny")) == 1
    proofs.tidy(store, "tiny")
    assert proofs.read(store, "tiny", "abc") == {}
