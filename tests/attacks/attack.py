"""Attack the gate and the engines with damaged files, and draw the table of outcomes.

python tests/attacks/attack.py --zoo FOLDER [--each 24] [--write docs/reliability.md]
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import zygote
from mutations import kinds, mutate
from zygote import Outcome, survive

MODELS = {
    "kws int8 (DS-CNN)": "mlperf-tiny/**/keyword_spotting/trained_models/kws_ref_model.tflite",
    "mnist float (LSTM)": "tflite-micro/**/mnist_lstm/trained_lstm.tflite",
    "while (3 subgraphs)": "litert-testdata/tflite/testdata/multi_subgraphs_while.bin",
    "mnist (CNN)": "qonnx/**/mnist-conv/model.onnx",
    "espcn (CNN)": "qonnx/**/bsd300x3-espcn/subpixel/float_model.onnx",
    "silero (LSTM, If)": "silero-vad/**/silero_vad_16k_op15.onnx",
}
"""Six models of the zoo: where each lies."""

WORDS = (zygote.REFUSED, zygote.REJECTED, zygote.RAN, zygote.DIED, zygote.HUNG, zygote.BAD)
BEGIN, END = "<!-- outcomes: begin -->", "<!-- outcomes: end -->"

OTHERS = ("litert-testdata", "coral/invalid_models")
"""Folders of it whose every file is tried as it is."""


@dataclass(frozen=True)
class Case:
    """One file to try: a mutation of a file, or, without a kind, the file itself."""

    model: str
    path: str
    format_name: str
    kind: str
    seed: int


@dataclass(frozen=True)
class Result:
    """How a case ended."""

    case: Case
    outcome: Outcome


def cases(zoo: Path, each: int, first: int = 0) -> list[Case]:
    """List mutations, `each` of every kind and model from the seed `first` on, and files that are damaged already."""
    found = []
    for name, pattern in MODELS.items():
        path = sorted(zoo.glob(pattern))[0]
        format_name = "onnx" if path.suffix == ".onnx" else "tflite"
        for kind in kinds(format_name):
            found += [Case(name, str(path), format_name, kind, seed) for seed in range(first, first + each)]
    for folder in OTHERS:
        files = sorted(path for path in (zoo / folder).rglob("*") if path.is_file())
        found += [Case(folder, str(path), "", "", 0) for path in files]
    return found


def content(case: Case) -> bytes:
    """Return the bytes of a case."""
    data = Path(case.path).read_bytes()
    return mutate(data, case.format_name, case.kind, case.seed) if case.kind else data


def attack(chosen: Sequence[Case], workers: int = 2) -> list[Result]:
    """Try them all, on so many cores."""
    with tempfile.TemporaryDirectory(prefix="edgeferry-attack-") as folder:
        crowd = [_worker(Path(folder) / f"{i}", chosen[i::workers]) for i in range(workers)]
        return [result for worker in crowd for result in _results(worker)]


def _worker(place: Path, chosen: Sequence[Case]) -> subprocess.Popen[str]:
    place.mkdir()
    listing = place / "cases.json"
    listing.write_text(json.dumps([asdict(case) for case in chosen]))
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, __file__, "--worker", str(listing)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _results(worker: subprocess.Popen[str]) -> Iterator[Result]:
    out, _ = worker.communicate()
    if worker.returncode:
        raise RuntimeError(f"the zygote ended with status {worker.returncode}")
    for line in out.splitlines():
        data = json.loads(line)
        yield Result(Case(**data["case"]), Outcome(**data["outcome"]))


def _work(listing: Path) -> None:
    zygote.warm_up()
    for entry in json.loads(listing.read_text()):
        case = Case(**entry)
        path = listing.parent / f"model{Path(case.path).suffix if case.kind else ''}"
        path.write_bytes(content(case))
        print(json.dumps({"case": entry, "outcome": asdict(survive(path))}), flush=True)


def table(results: Sequence[Result]) -> str:
    """Draw how many ended how, by model and kind, as Markdown."""
    rows: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for result in results:
        model, kind = result.case.model, result.case.kind
        rows[model, kind or "as it is"][result.outcome.kind] += 1
        rows["all", "all"][result.outcome.kind] += 1
    lines = [f"| file | mutation | tried | {' | '.join(WORDS)} |", "|---|---|" + "---|" * (len(WORDS) + 1)]
    order = {model: place for place, model in enumerate((*MODELS, *OTHERS))}
    for (model, kind), counts in sorted(rows.items(), key=lambda row: order.get(row[0][0], len(order))):
        figures = " | ".join(str(counts[word] or "") for word in WORDS)
        lines.append(f"| {model} | {kind} | {counts.total()} | {figures} |")
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Put a text between the marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def summary(results: Sequence[Result]) -> str:
    """Say in two lines what mattered."""
    counts = collections.Counter(result.outcome.kind for result in results)
    peak = max(result.outcome.peak_bytes for result in results) / 2**20
    check = max(result.outcome.checked_s for result in results) * 1000
    told = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    return f"{len(results)} files: {told}.\nMost memory: {peak:.0f} MiB. Slowest check that passed: {check:.1f} ms."


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--zoo", type=Path, default=os.environ.get("EDGEFERRY_ZOO"))
    parser.add_argument("--each", type=int, default=24, help="mutations of each kind and model")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--write", type=Path, help="the page whose table is written anew")
    parser.add_argument("--json", type=Path, help="where every result is written")
    asked = parser.parse_args()
    if asked.worker:
        _work(asked.worker)
        return
    results = attack(cases(Path(asked.zoo), asked.each, asked.first))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(result) for result in results]))
    text = f"{summary(results)}\n\n{table(results)}"
    print(text)
    if asked.write:
        write(asked.write, text)
    sys.exit(any(result.outcome.kind == zygote.BAD for result in results))


if __name__ == "__main__":
    main()
