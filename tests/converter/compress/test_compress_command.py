"""``ferry compress`` as it is typed: bad input is one line and an exit code, and no code runs unasked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgeferry_runtime.cli import main

pytestmark = pytest.mark.slow

PRUNE = "[[step]]\nmethod = 'prune-weights'\nsparsity = 0.5\n[step.train]\nepochs = 0\n"
WITNESS = "import pathlib\npathlib.Path(__file__).with_name('witness').touch()\n"


class Done(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


@pytest.fixture
def ferry(
    tmp_path: Path, keras_pupil: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Type ``ferry compress`` in a folder with m.keras, data.npz and r.toml."""
    monkeypatch.chdir(tmp_path)
    Path("m.keras").write_bytes(Path(keras_pupil.model).read_bytes())
    Path("data.npz").write_bytes(keras_pupil.data.read_bytes())
    Path("r.toml").write_text(PRUNE)

    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(["compress", *map(str, arguments)])
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


def test_results_on_stdout_and_a_line_a_step_on_stderr(ferry: Callable[..., Done]) -> None:
    done = ferry("m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz", "--plot", "p.svg")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["top1", "drop", "parameters", "zeros", "MACs"]
    assert [line.split()[0] for line in lines[1:3]] == ["source", "1-prune-weights"]
    assert "50.0%" in lines[2]
    assert lines[-1] == "next: ferry convert out/model.keras -o BUNDLE"
    assert b"<svg" in Path("p.svg").read_bytes()
    said = done.err.splitlines()
    assert said[0] == "ferry: note: nothing is given to judge by: 9 of 96 samples are held out"
    assert [line.split(" ... ")[0] for line in said[1:]] == ["source", "1-prune-weights"]


def test_json_is_the_history(ferry: Callable[..., Done]) -> None:
    done = ferry("m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz", "--json", "--seed", 3)
    told = json.loads(done.out)
    assert (told["schema"], told["schema_version"], told["seed"], told["model"]) == (1, 1, 3, "out/model.keras")
    kept = json.loads(Path("out/history.json").read_text())
    assert told["steps"] == kept["steps"]


def test_a_failed_gate_is_exit_code_3_and_the_table_is_there(ferry: Callable[..., Done]) -> None:
    Path("r.toml").write_text("max_drop = -1000\n" + PRUNE)
    done = ferry("m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz", "--evaluate", "data.npz")
    assert done.code == 3
    assert "1-prune-weights (over its gate)" in done.out
    assert "kept: the model as it was given" in done.out
    assert "is above max_drop -1000" in done.err.splitlines()[-1]
    assert Path("out/model.keras").is_file()


def test_a_dry_run_imports_no_framework_and_does_nothing(ferry: Callable[..., Done]) -> None:
    code = (
        "import sys\nfrom edgeferry_runtime.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        "    assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)\n"
    )
    line = ["compress", "m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz", "--dry-run"]
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3. 1-prune-weights: prune-weights, 0 epochs of adam at 0.001" in done.stdout
    assert not Path("out").exists()
    told = json.loads(ferry(*line[1:], "--json").out)
    assert told["steps"][0] == "open m.keras (keras)"


def test_a_scan_needs_no_recipe(ferry: Callable[..., Done]) -> None:
    done = ferry("m.keras", "--scan", "--data", "data.npz")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].split()[:2] == ["layer", "values"]
    assert len(done.out.splitlines()) == 3
    assert len(json.loads(ferry("m.keras", "--scan", "--evaluate", "data.npz", "--json").out)["layers"]) == 2
    assert sorted(path.name for path in Path().iterdir()) == ["data.npz", "m.keras", "r.toml"]


def spoiled(**arrays: Any) -> Callable[[], None]:
    def write() -> None:
        with np.load("data.npz") as stored:
            data = {**stored, **arrays}
        np.savez("data.npz", **data)

    return write


X = np.zeros((96, 8, 8, 1), np.float32)
NAN = np.where(np.arange(96)[:, None, None, None] == 5, np.nan, X).astype(np.float32)
WRONG = np.where(np.arange(96) == 7, 5, 0)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoiled(label=WRONG), "sample 7: its label 5 is none of the 5 classes"),
        (spoiled(image=X[:, :4]), "sample 0 of 'image': has shape [4, 8, 1]"),
        (spoiled(image=NAN), "sample 5 of 'image': holds NaN"),
        (spoiled(image=X[:9]), "has unequal numbers of samples (image: 9, label: 96)"),
        (spoiled(image=X[:0], label=WRONG[:0]), "holds no samples"),
        (lambda: np.savez("data.npz", image=X), "has no labels (it has image)"),
        (lambda: np.savez("data.npz", picture=X, meta=X, label=WRONG), "has data for 'picture', which is no input"),
        (lambda: Path("data.npz").write_bytes(b"PK\x03\x04 no"), "cannot be read"),
    ],
)
def test_data_that_do_not_fit_are_one_line(ferry: Callable[..., Done], spoil: Callable[[], None], said: str) -> None:
    spoil()
    done = ferry("m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz")
    assert done.code == 1, done.err
    assert done.err.splitlines()[-1].startswith("ferry: error: data.npz")
    assert said in done.err.splitlines()[-1]
    assert sorted(path.name for path in Path().iterdir()) == ["data.npz", "m.keras", "r.toml"], "nothing is left"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("m.keras -o out --data data.npz", 2, "--recipe FILE.toml is missing"),
        ("m.keras --recipe r.toml --data data.npz", 2, "-o FOLDER is missing"),
        ("m.keras --recipe r.toml -o out", 2, "data: are not given; add --data TRAIN.npz"),
        ("m.keras --recipe r.toml -o out --data none.npz", 1, "none.npz: no such data"),
        ("none.keras --recipe r.toml -o out --data data.npz", 1, "none.keras: "),
        ("data.npz --recipe r.toml -o out --data data.npz", 1, "data.npz"),
        ("m.keras --recipe r.toml -o no/out --data data.npz", 1, "no: no such folder"),
        ("m.keras --recipe r.toml -o r.toml --data data.npz", 1, "is no output of ferry compress"),
        ("m.keras --recipe r.toml -o out --data data.npz --weights w.pt", 2, "brings its own weights"),
        ("m.keras --recipe r.toml -o out --data data.npz --teacher t.keras", 2, "no step of the recipe is taught"),
        ("m.keras --recipe r.toml -o out --data data.npz --plot a.gif", 2, "ends in .svg or .png"),
        ("m.keras --recipe r.toml -o out --data data.npz --plot no/a.svg", 1, "no: no such folder"),
        ("m.keras --scan -o out --data data.npz --resume", 2, "--scan: only looks at the model"),
    ],
)
def test_a_line_that_does_not_fit_is_refused(ferry: Callable[..., Done], line: str, code: int, said: str) -> None:
    _refused(ferry(*line.split()), code, said)


TAUGHT = PRUNE + "[[step]]\nmethod = 'distill'\n[step.teach]\nteacher = 't.keras'\n"


def test_a_teacher_that_does_not_fit_is_refused_before_the_steps_before_it(ferry: Callable[..., Done]) -> None:
    import keras

    Path("r.toml").write_text(TAUGHT)
    line = ("m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz")
    _refused(ferry(*line, "--dry-run"), 1, "t.keras: no such file")
    teacher = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(7)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        teacher.save("t.keras")
    done = ferry(*line)
    Path("t.keras").unlink()
    _refused(done, 1, "give a teacher of the same classes")
    assert "1-prune-weights" not in done.err


def test_an_output_that_holds_what_is_read_is_not_replaced(ferry: Callable[..., Done]) -> None:
    line = ("--recipe", "r.toml", "-o", "out", "--data")
    assert ferry("m.keras", *line, "data.npz", "--resume").code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    Path("data.npz").rename("out/data.npz")
    for model, data in (("out/model.keras", "out/data.npz"), ("m.keras", "out/data.npz")):
        done = ferry(model, *line, data)
        assert done.code == 1
        assert "and would be replaced; give another -o" in done.err
    Path("out/data.npz").rename("data.npz")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


TRAINED = PRUNE.replace("[step.train]\nepochs = 0\n", "")


@pytest.mark.parametrize(
    ("recipe", "code", "said"),
    [
        ("", 2, "has no steps"),
        ("metric = 'auc'\n" + PRUNE, 1, "has labels that are not both"),
        ("metric_output = 'x'\n" + PRUNE, 2, "unknown name 'x'"),
        ("[train]\nloss = 'mse'\n" + TRAINED, 2, "loss mse: does not fit the labels"),
        (PRUNE.replace("sparsity", "layers = ['no*']\nsparsity"), 2, "no*"),
        ("[[step]]\nmethod = 'prune-channels'\nmacs = 0.001\n", 1, "cannot"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(ferry: Callable[..., Done], recipe: str, code: int, said: str) -> None:
    Path("r.toml").write_text(recipe)
    _refused(ferry("m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz"), code, said)


def _refused(done: Done, code: int, said: str) -> None:
    assert done.code == code, done.err
    errors = [text for text in done.err.splitlines() if text.startswith("ferry: error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert not Path("out").exists()
    assert not Path(".out.compress").exists()


@pytest.mark.parametrize(
    ("recipe", "flag"),
    [
        ("data = 'evil.py:f'\n" + PRUNE, "--data evil.py:f"),
        ("data = 'data.npz'\nevaluate = 'evil.py:f'\n" + PRUNE, "--evaluate evil.py:f"),
        (
            "data = 'data.npz'\n[[step]]\nmethod = 'distill'\n[step.teach]\nteacher = 'evil.py:f'\n",
            "--teacher evil.py:f",
        ),
        ("data = 'data.npz'\n" + PRUNE + "[convert]\ncustom_objects = 'evil.py:f'\n", "--custom-objects evil.py:f"),
    ],
)
def test_python_that_only_the_recipe_names_is_never_executed(
    ferry: Callable[..., Done], recipe: str, flag: str
) -> None:
    Path("evil.py").write_text(WITNESS + "def f():\n    return [[[0.0]]], [0]\n")
    Path("r.toml").write_text(recipe)
    for extra in (("-o", "out"), ("-o", "out", "--dry-run"), ("--scan",)):
        done = ferry("m.keras", "--recipe", "r.toml", *extra)
        assert done.code == 2, done.err
        assert "if you trust" in done.err and f"add {flag}" in done.err
    assert not Path("witness").exists()


def test_python_that_was_given_is_executed_and_its_noise_is_caught(ferry: Callable[..., Done]) -> None:
    Path("given.py").write_text(
        WITNESS + "import numpy as np\nprint('hello')\nwith np.load('data.npz') as f:\n    d = dict(f)\n"
        "def train_data():\n    print('hello')\n    return d['image'], d['label']\n"
        "def evaluate(predict):\n    print('hello')\n    return (predict(d['image']).argmax(1) == d['label']).mean()\n"
    )
    done = ferry(
        "m.keras", "--recipe", "r.toml", "-o", "out", "--data", "given.py:train_data", "--evaluate", "given.py:evaluate"
    )
    assert done.code == 0, done.err
    assert Path("witness").exists()
    assert "hello" not in done.out + done.err
    assert done.out.split()[0] == "evaluate"


def test_ctrl_c_says_how_to_go_on(ferry: Callable[..., Done]) -> None:
    Path("r.toml").write_text(PRUNE.replace("epochs = 0", "epochs = 1000000"))
    line = ["compress", "m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz"]
    command = [sys.executable, "-m", "edgeferry_runtime", *line]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            deadline = time.monotonic() + 240
            while not Path(".out.compress/epoch.npz").exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130, said
    lines = [line for line in said.splitlines() if line]
    assert lines[-1] == "ferry: interrupted"
    assert lines[-2].endswith(".out.compress; go on with --resume")
    done = ferry("m.keras", "--recipe", "r.toml", "-o", "out", "--data", "data.npz")
    assert done.code == 1
    assert "go on with --resume, or begin anew: rm -r" in done.err
