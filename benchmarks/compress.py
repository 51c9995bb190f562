"""What compression with training reaches: accuracy, sizes and times over several seeds, against the aims.

    EDGEFERRY_ZOO=... python benchmarks/compress.py [EXPERIMENT ...] [--seeds 5] [--jobs 1]

Each seed of each experiment runs in a process and with a split of its own: of MNIST's test set 7,000 pictures to
train on and 3,000 to judge by, of the 503 clips of the keyword spotter half and half. Accuracy of what is quantized is
that of the artifact in its engine. Ends with status 1 where an aim is missed. Without a zoo nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")

Means = dict[str, float]


class Aim(NamedTuple):
    """A condition on the means of one experiment: what it compares must be at least (or at most) its limit."""

    words: str
    value: str
    limit: float
    least: bool = False

    def met(self, means: Means) -> tuple[float, bool]:
        """Return the value, and whether it is within the limit."""
        left, _, right = self.value.partition(" of ")
        value = _difference(left, means) / (_difference(right, means) if right else 1.0)
        return value, value >= self.limit if self.least else value <= self.limit


def _difference(text: str, means: Means) -> float:
    first, *rest = text.split(" - ")
    return means[first] - sum(means[name] for name in rest)


INT8 = Aim("int8 trained: points below float", "float - int8 trained", 0.2)
INT4 = Aim("int4: loss when trained, of the loss afterwards", "float - int4 trained of float - int4 after", 0.5)
AIMS = {
    "unstructured": (
        Aim("points lost at 80 % zeros", "drop", 0.5),
        Aim("compressed float32 bundle, times smaller", "smaller", 2.5, least=True),
        Aim("compressed int8 bundle, times smaller", "smaller int8", 2.5, least=True),
    ),
    "structured": (
        Aim("points lost at half of the MACs", "drop", 1.0),
        Aim("MACs left, %", "macs", 50.0),
        Aim("TFLite p50, times faster", "faster", 1.6, least=True),
    ),
    "distilled": (
        Aim("share of the gap to the teacher that is gained", "gained of gap", 0.25, least=True),
        Aim("parameters of the student, % of the teacher's", "parameters", 10.0),
    ),
    "quantized": (INT8, INT4),
    "spotted": (INT8, INT4),
    "scanned": (Aim("seconds for 20 layers", "seconds", 120.0), Aim("layers", "layers", 20.0, least=True)),
}


def one(experiment: str, seed: int) -> Means:
    """Run one seed of an experiment in a child process."""
    command = [sys.executable, __file__, "--child", experiment, str(seed)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**ONE_THREAD, **os.environ})
    if done.returncode:
        raise SystemExit(f"{experiment}, seed {seed} failed:\n{done.stderr[-3000:]}")
    print(f"{experiment}, seed {seed}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    figures: Means = json.loads(done.stdout)
    return figures


def child(experiment: str, seed: int) -> None:
    """Run one seed of an experiment here, and print what it finds as JSON."""
    from compression.experiments import EXPERIMENTS

    with tempfile.TemporaryDirectory() as folder:
        found = EXPERIMENTS[experiment](Path(os.environ["EDGEFERRY_ZOO"]), seed, Path(folder))
    print(json.dumps({name: round(float(value), 5) for name, value in found.items()}))


def show(experiment: str, figures: list[Means]) -> bool:
    """Print means and standard deviations, and the aims; return whether all are met."""
    means = {name: statistics.fmean(one[name] for one in figures) for name in figures[0]}
    spread = {name: statistics.pstdev([one[name] for one in figures]) for name in means}
    print(f"\n{experiment}, {len(figures)} seeds")
    for name, mean in means.items():
        print(f"  {name:18}{mean:10.3f} +- {spread[name]:.3f}")
    verdicts = []
    for aim in AIMS[experiment]:
        value, met = aim.met(means)
        verdicts.append(met)
        sign = ">=" if aim.least else "<="
        print(f"  aim: {aim.words}: {value:.3g} ({sign} {aim.limit:g}): {'met' if met else 'MISSED'}")
    return all(verdicts)


def main() -> int:
    """Run what is asked for, and return whether an aim was missed."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", nargs="*", choices=[*AIMS, []], help="without one all of them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, one thread each")
    asked = parser.parse_args()
    if "EDGEFERRY_ZOO" not in os.environ:
        print("compress: EDGEFERRY_ZOO names no folder with MNIST and the keyword spotter: nothing is measured")
        return 0
    wanted = asked.experiment or list(AIMS)
    with ThreadPoolExecutor(asked.jobs) as pool:
        runs = {name: [pool.submit(one, name, seed) for seed in range(asked.seeds)] for name in wanted}
        verdicts = [show(name, [run.result() for run in found]) for name, found in runs.items()]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
