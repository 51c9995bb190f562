"""TFLite delegate libraries: one of our own, built here, that computes some nodes, and unusable ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.engines import Delegate, LeftBehind, open_engine
from edgeferry_runtime.engines.elf import elf_machine, own_machine
from edgeferry_runtime.engines.litert_library import EDGETPU
from edgeferry_runtime.errors import DelegationError, EngineCrashError, EngineError, PartialDelegationError
from edgeferry_runtime.model import load

SOURCES = Path(__file__).parent / "delegate"
X = np.arange(4, dtype=np.float32).reshape(1, 4)


def _build(source: Path, library: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the test delegate with")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


@pytest.fixture(scope="session")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The delegate that takes additions."""
    return _build(SOURCES / "adder.c", tmp_path_factory.mktemp("delegate") / "libadder.so")


@pytest.fixture(scope="session")
def chain(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = 8 * logistic(4 * x) by additions alone: two of them, LOGISTIC, and three more."""
    graph = tiny.Graph()
    tensors = [graph.tensor(f"t{i}", [1, 4]) for i in range(7)]
    for i in range(6):
        if i == 2:
            graph.operator("LOGISTIC", [tensors[i]], [tensors[i + 1]])
        else:
            graph.operator("ADD", [tensors[i]] * 2, [tensors[i + 1]])
    path = tmp_path_factory.mktemp("chain") / "chain.tflite"
    path.write_bytes(graph.file([tensors[0]], [tensors[6]]))
    return path


def expected(x: np.ndarray) -> np.ndarray:
    return 8 / (1 + np.exp(-4 * x))


@pytest.mark.slow
def test_a_delegate_that_takes_some_nodes_tells_which_and_computes_them(adder: Path, chain: Path) -> None:
    with load(chain, delegate=str(adder)) as model:
        told = model.execution
        np.testing.assert_allclose(model(X), expected(X), rtol=1e-5)
    assert (told.nodes_total, told.nodes_delegated, told.partitions) == (6, 5, 2)
    assert told.left_behind == (LeftBehind("LOGISTIC", 1),)
    assert told.processor == "libadder.so and CPU, XNNPACK, 1 thread"
    assert told.full is False
    assert told.delegate == model.delegate == str(adder)


def test_options_reach_the_delegate(adder: Path, chain: Path) -> None:
    """Every second addition: three of five, none beside another. The slip shows in the result that it computed them."""
    with load(chain, delegate=f"{adder}?every=2&slip=1") as model:
        told = model.execution
        found = model(X)
    assert (told.nodes_delegated, told.partitions) == (3, 3)
    assert told.left_behind == (LeftBehind("ADD", 2), LeftBehind("LOGISTIC", 1))
    level = 1 / (1 + np.exp(-2 * (2 * X + 1)))
    np.testing.assert_allclose(found, 2 * (2 * (2 * level + 1)) + 1, rtol=1e-5)


@pytest.mark.slow
def test_a_graph_that_is_taken_whole_is_fully_delegated(adder: Path, tiny, tmp_path: Path) -> None:
    graph = tiny.Graph()
    x, y = graph.tensor("x", [1, 4]), graph.tensor("y", [1, 4])
    graph.operator("ADD", [x, x], [y])
    path = tmp_path / "add.tflite"
    path.write_bytes(graph.file([x], [y]))
    with load(path, delegate=str(adder), require_full_delegation=True) as model:
        assert model.execution.full
        assert model.execution.processor == "libadder.so"
        assert model(X).tolist() == (2 * X).tolist()


def test_a_delegate_takes_other_shapes_as_well(adder: Path, artifacts, tiny, tmp_path: Path) -> None:
    graph = tiny.Graph()
    x, y = (graph.tensor(name, [1, 4], signature=[-1, 4]) for name in "xy")
    graph.operator("ADD", [x, x], [y])
    path = tmp_path / "add.tflite"
    path.write_bytes(graph.file([x], [y]))
    with load(path, delegate=f"{adder}?slip=0.5") as model:
        assert model(np.ones((3, 4), np.float32)).tolist() == [[2.5] * 4] * 3


def test_full_delegation_that_is_required_names_what_was_left_behind(adder: Path, chain: Path) -> None:
    with pytest.raises(DelegationError, match="5 of 6 nodes, without 1 LOGISTIC"):
        load(chain, delegate=str(adder), require_full_delegation=True)


@pytest.mark.slow
def test_a_delegate_that_takes_nothing_is_not_said_to_execute(adder: Path, artifacts) -> None:
    said = r"takes none of the 1 nodes of int8\.tflite"
    with pytest.raises(PartialDelegationError, match=said):
        load(artifacts["int8.tflite"], delegate=str(adder))
    with pytest.raises(DelegationError, match=said):
        load(artifacts["int8.tflite"], delegate=str(adder), require_full_delegation=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("colour=red", "the library refuses its options: the adder does not take colour"),
        ("fail=create", "the library refuses its options: the adder does not take fail"),
        ("fail=prepare", r"cannot be applied to chain\.tflite \(the adder was told to fail when it prepares\)"),
    ],
)
def test_a_delegate_that_refuses(adder: Path, chain: Path, options: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        load(chain, delegate=f"{adder}?{options}")


@pytest.mark.slow
def test_a_delegate_that_fails_when_it_runs(adder: Path, chain: Path) -> None:
    with load(chain, delegate=f"{adder}?fail=invoke") as model, pytest.raises(EngineError, match="told to fail"):
        model(X)


def test_a_delegate_that_kills_its_process_kills_a_child(adder: Path, chain: Path) -> None:
    with pytest.raises(EngineCrashError, match="SIGSEGV") as error:
        load(chain, delegate=f"{adder}?fail=crash")
    assert error.value.fix == "use another delegate, such as cpu"


@pytest.mark.slow
def test_an_order_of_preference_falls_back_and_says_so(adder: Path, chain: Path) -> None:
    asked = f"./absent.so,{adder}?fail=crash,cpu:2"
    with load(chain, delegate=asked) as model:
        told = model.execution
        np.testing.assert_allclose(model(X), expected(X), rtol=1e-5)
    assert (told.asked, told.delegate, told.full) == (asked, "cpu:2", False)
    assert told.fallbacks == ("./absent.so: no such library", f"{adder}?fail=crash: its engine died: SIGSEGV")


@pytest.mark.slow
def test_an_order_of_preference_may_fail_altogether(chain: Path) -> None:
    with pytest.raises(
        EngineError, match=r"runs on none of the delegates \(./a\.so: no such library; ./b\.so: no such"
    ):
        load(chain, delegate="./a.so,./b.so")


def _with_machine(library: Path, path: Path, machine: int) -> Path:
    data = bytearray(library.read_bytes())
    data[18:20] = machine.to_bytes(2, "little")
    path.write_bytes(data)
    return path


@pytest.mark.slow
def test_a_library_for_another_architecture(adder: Path, chain: Path, tmp_path: Path) -> None:
    other, name = (183, "aarch64") if own_machine() != "aarch64" else (62, "x86-64")
    library = _with_machine(adder, tmp_path / "libother.so", other)
    with pytest.raises(EngineError, match=f"the library is built for {name}, and this Python for {own_machine()}"):
        load(chain, delegate=str(library))


@pytest.mark.slow
def test_a_library_that_lacks_the_entry_points(chain: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.c").write_text("int unrelated;")
    library = _build(tmp_path / "plain.c", tmp_path / "libplain.so")
    with pytest.raises(EngineError, match="is too old: it lacks tflite_plugin_create_delegate"):
        load(chain, delegate=str(library))


@pytest.mark.slow
def test_a_library_that_needs_another(chain: Path, tmp_path: Path) -> None:
    (tmp_path / "needy.c").write_text("extern int absent(void); int (*used)(void) = absent;")
    library = _build(tmp_path / "needy.c", tmp_path / "libneedy.so")
    with pytest.raises(EngineError, match=r"the library cannot be loaded \(.*absent"):
        load(chain, delegate=str(library))


@pytest.mark.parametrize(
    ("delegate", "said"),
    [
        ("{folder}/absent.so", "no such library; check the path"),
        ("{folder}", "is no file"),
        ("{folder}/text.so", "is no library"),
        ("libabsent.so", "the linker finds no such library; give its path"),
        ("text.so", r"the linker finds no such library; write \./text\.so"),
        ("edgetpu", "is not compiled for the Edge TPU, which would take none of its 6 nodes"),
    ],
)
def test_delegates_that_cannot_be_used(chain: Path, tmp_path: Path, monkeypatch, delegate: str, said: str) -> None:
    (tmp_path / "text.so").write_text("no library at all, but long enough")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=said):
        open_engine("tflite", chain, (Delegate.parse(delegate.format(folder=tmp_path)),), tried=True)


def test_elf_headers_are_read(adder: Path, tmp_path: Path) -> None:
    assert elf_machine(adder) == own_machine()
    assert elf_machine(_with_machine(adder, tmp_path / "v.so", 243)) == "riscv 64-bit"
    assert elf_machine(Path(__file__)) is None


@pytest.fixture
def compiled(tiny, tmp_path: Path) -> Path:
    path = tmp_path / "compiled.tflite"
    path.write_bytes(tiny.tflite_custom("edgetpu-custom-op"))
    return path


@pytest.mark.slow
def test_the_edge_tpu_runtime_is_missing_on_most_machines(compiled: Path) -> None:
    with pytest.raises(EngineError, match=r"libedgetpu.*, the Edge TPU runtime, is not installed; install"):
        load(compiled, delegate="edgetpu:usb:0")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the library has another name there")
def test_the_edge_tpu_runtime_is_given_the_device(adder: Path, compiled: Path, tmp_path: Path) -> None:
    """The adder under the runtime's name refuses the option, and so shows that it was given."""
    (tmp_path / EDGETPU).write_bytes(adder.read_bytes())
    code = f"from edgeferry_runtime.model import load; load({str(compiled)!r}, delegate='edgetpu:pci:1')"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    said = "--delegate edgetpu:pci:1: libedgetpu.so.1 finds no such Edge TPU (the adder does not take device)"
    if "which is not installed" in done.stderr:
        pytest.skip("needs ai_edge_litert, which is not installed here")
    assert said in done.stderr.splitlines()[-1]


def test_a_python_that_does_not_tell_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "")
    assert own_machine() is None


@pytest.mark.parametrize(("delegate", "place"), [("cpu:2", "CPU"), ("gpu", "GPU"), ("npu", "NPU")])
def test_a_file_for_the_edge_tpu_runs_nowhere_else(compiled: Path, delegate: str, place: str) -> None:
    with pytest.raises(EngineError, match=f"is compiled for the Edge TPU, and cannot run on a {place}"):
        load(compiled, delegate=delegate)


@pytest.mark.zoo
def test_files_of_the_zoo_for_the_edge_tpu_are_refused_in_one_line(zoo: Path) -> None:
    paths = sorted((zoo / "coral").rglob("*_edgetpu.tflite"))
    assert paths
    for path in paths:
        with pytest.raises(EngineError, match="is compiled for the Edge TPU") as error:
            load(path)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_command_tells_what_executes(ferry, adder: Path, chain: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    code, out, err = ferry("run", chain, "--input", tmp_path / "x.npy", "--delegate", adder, "--json")
    assert code == 0
    assert f"{adder}: libadder.so and CPU, XNNPACK, 1 thread; 5 of 6 nodes in 2 partitions" in err
    assert "left to the CPU: 1 LOGISTIC" in err
    told = json.loads(out)["execution"]
    assert (told["nodes_delegated"], told["full"]) == (5, False)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["run", "--input", "x.npy"], ["bench", "--num-runs", "1", "--min-secs", "0"]])
def test_the_command_requires_full_delegation(ferry, adder: Path, chain: Path, tmp_path, monkeypatch, command) -> None:
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    code, out, err = ferry(command[0], chain, *command[1:], "--delegate", adder, "--require-full-delegation")
    assert (code, out) == (3, "")
    assert "5 of 6 nodes, without 1 LOGISTIC" in err.splitlines()[-1]


@pytest.mark.slow
def test_a_profile_has_what_executed(ferry, adder: Path, chain: Path) -> None:
    measure = ("bench", chain, "--num-runs", "2", "--min-secs", "0", "--delegate", f"{adder},cpu")
    code, out, _ = ferry(*measure, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["nodes_total"], told["nodes_delegated"], told["partitions"]) == (6, 5, 2)
    assert told["engine"]["delegate"] == told["execution"]["delegate"] == str(adder)
    assert told["execution"]["asked"] == f"{adder},cpu"
