"""The commands as a user types them."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import history, hostkeys, inventory
from edgeferry_runtime.bundle import Bundle

Ferry = Callable[..., tuple[int, str, str]]


def error_line(err: str) -> str:
    """Return the one line that says what is wrong."""
    lines = [line for line in err.splitlines() if line.startswith("ferry: error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def test_device_add_list_remove(ferry: Ferry, home: Path) -> None:
    key = home / ".ssh" / "id"
    key.touch()
    code, out, err = ferry("device", "add", "pi", "pi@192.0.2.1:2222", "--key", key)
    assert (code, out) == (0, "added pi (pi@192.0.2.1:2222)\n")
    assert err == "next: ferry device trust pi\n"
    assert stat.S_IMODE(inventory.inventory_path().stat().st_mode) == 0o600
    code, out, _ = ferry("device", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["device", "local", "pi"]
    listed = json.loads(ferry("device", "list", "--json")[1])
    assert listed["schema"] == 1
    assert listed["devices"][1] == {
        "name": "pi",
        "address": "pi@192.0.2.1:2222",
        "key": str(key),
        "root": "~/.local/share/edgeferry",
        "tags": [],
    }
    assert ferry("device", "remove", "pi")[0] == 0
    assert inventory.read() == {}


@pytest.mark.parametrize(
    "argv",
    [
        ("add", "local", "pi@host"),
        ("add", "a/b", "pi@host"),
        ("add", "pi", "pi@-oProxyCommand=id"),
        ("add", "pi", "pi@host", "--key", "/no/such/key"),
        ("add", "pi", "pi@host", "--root", "/"),
        ("remove", "local"),
        ("remove", "nobody"),
        ("trust", "local"),
        ("info", "nobody"),
    ],
)
def test_usage_errors(ferry: Ferry, argv: tuple[str, ...]) -> None:
    code, out, err = ferry("device", *argv)
    assert (code, out) == (2, "")
    error_line(err)
    assert inventory.read() == {}


def test_trust_unknown(ferry: Ferry, server: Any, root: Path) -> None:
    hostkeys.pinned_path().unlink()
    inventory.add(server.entry(root))
    code, _, err = ferry("device", "info", "pi")
    assert code == 4
    assert server.host_key.fingerprint in error_line(err)
    assert "ferry device trust pi" in err

    code, _, err = ferry("device", "trust", "pi", "--fingerprint", "SHA256:wrong")
    assert code == 4
    assert "not SHA256:wrong" in error_line(err)
    assert not hostkeys.pinned_path().exists()

    code, _out, err = ferry("device", "trust", "pi", "--fingerprint", server.host_key.fingerprint)
    assert code == 0
    assert server.host_key.fingerprint in err
    assert ferry("device", "info", "pi")[0] == 0
    assert "trusted already" in ferry("device", "trust", "pi")[1]


def test_trust_changed_shows_both(ferry: Ferry, server: Any, root: Path, make_key: Callable, tmp_path: Path) -> None:
    inventory.add(server.entry(root))
    other = make_key(tmp_path / "other")
    old = hostkeys.HostKey(other.get_name(), other.asbytes())
    hostkeys.pin(hostkeys.lookup_name("127.0.0.1", server.port), old)
    code, _, err = ferry("device", "trust", "pi", "--yes")
    assert code == 0
    assert old.fingerprint in err
    assert f"CHANGED to {server.host_key}" in err
    assert ferry("device", "info", "pi")[0] == 0


@pytest.mark.parametrize(("answer", "code", "pinned"), [("y\n", 0, True), ("n\n", 4, False), ("", 130, False)])
def test_trust_asks(start_server: Callable, root: Path, answer: str, code: int, pinned: bool) -> None:
    server = start_server()
    inventory.add(server.entry(root))
    argv = [sys.executable, "-m", "edgeferry_runtime", "device", "trust", "pi"]
    done = subprocess.run(argv, input=answer, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert server.host_key.fingerprint in done.stderr
    assert hostkeys.pinned_path().exists() is pinned


def test_info(ferry: Ferry, place: Any) -> None:
    code, out, _ = ferry("device", "info", place.name, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["device"] == place.name
    assert told["root"] == str(place.root)
    assert told["machine"]["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert told["machine"]["cores"] >= 1
    assert told["machine"]["memory_bytes"] > 1e8
    assert "onnxruntime" in told["machine"]["engines"]
    code, out, _ = ferry("device", "info", place.name)
    assert code == 0
    assert "onnxruntime" in out
    assert "GiB" in out


def test_info_installs_nothing(ferry: Ferry, server: Any, tmp_path: Path) -> None:
    inventory.add(server.entry(tmp_path / "bare"))
    code, out, _ = ferry("device", "info", "pi")
    assert code == 0
    assert "not installed yet" in out
    assert not (tmp_path / "bare").exists()


def test_info_of_a_board_that_cannot_take_us(ferry: Ferry, start_server: Callable, tmp_path: Path) -> None:
    """What it is can be told even where no engine would run."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\n{sys.executable} "$@" | sed "s/\\"bits\\": 64/\\"bits\\": 32/"\n')
    python.chmod(0o755)
    server = start_server(f"{tmp_path / 'bin'}:/usr/bin")
    server.trust()
    inventory.add(server.entry(tmp_path / "bare"))
    assert ferry("device", "info", "pi")[0] == 0


def test_push_and_push_again(ferry: Ferry, place: Any, bundle: Bundle) -> None:
    code, out, err = ferry("push", bundle.path, place.name)
    assert code == 0
    assert f"tiny {bundle.id[:12]} on {place.name}: pushed" in out
    assert "max abs" in out
    assert "running the probe" in err
    code, out, _ = ferry("push", bundle.path, place.name, "--json")
    told = json.loads(out)
    assert (code, told["up_to_date"], told["bytes_sent"]) == (0, True, 0)


def test_push_that_fails_its_probe(ferry: Ferry, place: Any, make_bundle: Callable) -> None:
    code, out, err = ferry("push", make_bundle(wrong=0.5).path, place.name)
    assert (code, out) == (3, "")
    assert "max abs error 0.5 is above 1e-05" in error_line(err)


def test_push_of_no_bundle(ferry: Ferry, tmp_path: Path) -> None:
    assert ferry("push", tmp_path / "absent", "local")[0] == 1
    code, _, err = ferry("push", tmp_path, "local")
    assert code == 1
    assert "is no bundle" in error_line(err)


def test_run_there_gives_what_run_here_gives(ferry: Ferry, place: Any, bundle: Bundle) -> None:
    code, there, err = ferry("run", bundle.path, "--device", place.name, "--json")
    assert code == 0, err
    assert json.loads(there)["outputs"] == json.loads(ferry("run", bundle.path, "--json")[1])["outputs"]


QUICK = ("--num-runs", "5", "--warmup-runs", "1", "--min-secs", "0", "--max-warmup-secs", "0")


def test_profile(ferry: Ferry, place: Any, bundle: Bundle) -> None:
    code, out, err = ferry("profile", bundle.path, "--on", place.name, *QUICK)
    assert code == 0
    head, row = out.splitlines()
    assert "p50 ms" in head
    assert row.split()[:3] == [place.name, "tiny", "onnxruntime"]
    assert re.search(rf"kept 1 profile of run [0-9a-f]{{16}} in {history.folder()}\n$", err)
    code, out, _ = ferry("profile", bundle.path, "--on", place.name, *QUICK, "--json")
    told = json.loads(out)
    (found,) = told["profiles"]
    assert {key: found[key] for key in ("device", "bundle", "round", "error")} == {
        **{"device": place.name, "bundle": "tiny", "round": 1, "error": None}
    }
    assert found["profile"]["device"] == place.name
    assert found["profile"]["artifact"]["bundle"] == bundle.id
    assert found["profile"]["num_runs"] == 5
    (kept,) = [m for m in history.read() if m.run == told["run"]]
    assert str(kept.path) == found["path"]


def test_profile_of_one_is_what_compare_reads(ferry: Ferry, bundle: Bundle, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(ferry("profile", bundle.path, "--on", "local", *QUICK, "--json")[1])
    code, out, _ = ferry("compare", tmp_path / "a", tmp_path / "b", "--json")
    assert code == 0
    assert json.loads(out)["a"]["runs"] == 5


def test_profile_of_several_pools_the_rounds_and_compares_with_the_first(
    ferry: Ferry, make_bundle: Callable[..., Bundle], server: Any, root: Path
) -> None:
    inventory.add(server.entry(root))
    bundles = [make_bundle(name) for name in ("first", "second")]
    argv = ("profile", *(b.path for b in bundles), "--on", "local", "--on", "pi", *QUICK)
    code, out, err = ferry(*argv)
    assert code == 0, err
    head, *rows = out.splitlines()
    assert head.endswith("times first")
    cells = [re.split(r"  +", row) for row in rows]
    assert [c[:2] for c in cells] == [[d, b] for d in ("local", "pi") for b in ("first", "second")]
    assert [c[9] for c in cells] == ["10"] * 4
    assert re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\), (faster|slower|no difference)", cells[1][-1])
    assert "kept 8 profiles of run" in err
    told = json.loads(ferry(*argv, "--json", "--rounds", "1")[1])
    compared = [(c["device"], c["bundle_id"], c["against_id"], c["b"]["processes"]) for c in told["comparisons"]]
    assert compared == [(name, bundles[1].id, bundles[0].id, 1) for name in ("local", "pi")]


def test_two_versions_of_a_bundle_are_told_apart(ferry: Ferry, make_bundle: Callable[..., Bundle]) -> None:
    old, new = make_bundle(), make_bundle(padding=10)
    code, out, err = ferry("profile", old.path, new.path, "--on", "local", *QUICK, "--rounds", "1")
    assert code == 0
    assert f"times tiny {old.id[:12]}" in out
    assert f"tiny {new.id[:12]}" in out.splitlines()[2]
    assert "each side is one process" in err


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("{}", "local"), "ferry profile {} --on local"),
        (("{}", "local", "pi@host"), "ferry profile {} --on local --on pi@host"),
        (("{}",), "ferry profile {} --on DEVICE"),
        (("gone",), "ferry profile gone --on DEVICE"),
    ],
)
def test_profile_says_how_a_device_is_named(ferry: Ferry, bundle: Bundle, words: tuple, fix: str) -> None:
    code, out, err = ferry("profile", *(word.format(bundle.path) for word in words), *QUICK)
    assert (code, out) == (2, "")
    said = f"ferry: error: ferry profile: was told no device; name it with --on: {fix.format(bundle.path)}"
    assert error_line(err) == said


def test_a_sustained_profile_is_told_in_one_sentence(ferry: Ferry, bundle: Bundle) -> None:
    code, out, _ = ferry("profile", bundle.path, "--on", "local", *QUICK, "--sustained", "0.5s")
    assert code == 0
    assert "local: over 0.5s the median " in out.splitlines()[-1]


def test_operators_are_told_for_each_device(ferry: Ferry, bundle: Bundle) -> None:
    code, out, _ = ferry("profile", bundle.path, "--on", "local", *QUICK, "--ops", "--top", "1")
    assert code == 0
    assert "\n\nlocal:\nby type, 1 of 2\n" in out


def test_one_device_that_fails_does_not_stop_the_others(ferry: Ferry, server: Any, root: Path, bundle: Bundle) -> None:
    inventory.add(server.entry(root))
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    code, out, err = ferry("profile", bundle.path, "--on", "gone", "--on", "pi", "--on", "local", *QUICK)
    assert code == 4
    assert [line.split()[0] for line in out.splitlines()] == ["device", "pi", "local"]
    assert error_line(err).startswith("ferry: error: gone: 127.0.0.1 port 1 refuses")
    told = json.loads(ferry("profile", bundle.path, "--on", "gone", "--on", "local", *QUICK, "--json")[1])
    assert [bool(p["profile"]) for p in told["profiles"]] == [False, True]
    assert told["profiles"][0]["error"]["exit_code"] == 4


@pytest.mark.parametrize(
    "options", [("--delegate", "gpuu"), ("--num-runs", "0"), ("--min-secs", "9", "--max-secs", "1")]
)
def test_profile_refuses_bad_options_before_connecting(ferry: Ferry, bundle: Bundle, options: tuple[str, ...]) -> None:
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    code, out, _ = ferry("profile", bundle.path, "--on", "gone", *options)
    assert (code, out) == (2, "")


def test_help_of_every_command(ferry: Ferry) -> None:
    for argv in (("device",), ("device", "add"), ("push",), ("profile",)):
        code, out, _ = ferry(*argv, "--help")
        assert code == 0
        assert out.startswith("Usage: ferry")


def test_without_paramiko_the_pip_line_is_printed(start_server: Callable, root: Path) -> None:
    inventory.add(start_server().entry(root))
    text = "import sys; sys.modules['paramiko'] = None; from edgeferry_runtime.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", text, "device", "info", "pi"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'edgeferry[devices]'" in error_line(done.stderr)
