"""What the commands print, word for word; what differs between machines is masked."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Transcript = Callable[..., str]
QUICK = "--num-runs 5 --min-secs 0 --max-warmup-secs 0"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that is taken and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_convert_and_run(transcript: Transcript) -> None:
    convert = "ferry convert dense.tflite -o dense --quantize dynamic"
    transcript("convert_and_run", convert, "ferry run dense", "ferry run dense.tflite --input x.npy")


def test_convert_onnx(transcript: Transcript) -> None:
    calibrated = "ferry convert dense.onnx -o dense --to onnx --quantize int8 --calibrate samples.npy --min-top1 0"
    transcript("convert_onnx", calibrated, "ferry run dense")


@pytest.mark.usefixtures("bundle")
def test_bench(transcript: Transcript) -> None:
    transcript("bench", f"ferry bench dense {QUICK}", f"ferry bench dense.tflite {QUICK}")


@pytest.mark.usefixtures("bundle")
def test_push_and_profile(transcript: Transcript) -> None:
    push = "ferry push dense local"
    transcript("push_and_profile", push, push, f"ferry profile dense --on local {QUICK}")


def test_budgets_and_history(transcript: Transcript) -> None:
    evaluated = "ferry convert dense.tflite -o dense --quantize dynamic --evaluate labelled.npz"
    transcript(
        "budgets_and_history",
        f"{evaluated} --max-drop 50",
        "ferry compare",
        f"ferry bench dense {QUICK} --budget p50=10s,size=1B,drop=50",
        f"ferry bench dense.tflite {QUICK} --budget drop=50",
        f"ferry profile dense --on local {QUICK} --budget p50=10s,accuracy=0 --junit report.xml",
        "ferry compare --on local",
        "ferry compare local:dense@1d local:dense",
        "ferry compare local:dense local:dense --max-slowdown 5%",
    )


@pytest.mark.usefixtures("bundle")
def test_run_on_a_device(transcript: Transcript) -> None:
    transcript("run_on_a_device", "ferry run dense --device local")


@pytest.mark.usefixtures("bundle")
def test_report(transcript: Transcript) -> None:
    report = "ferry report -o report.html"
    transcript(
        "report",
        report,
        f"ferry profile dense --on local --rounds 1 {QUICK}",
        report,
        f"{report} --bundle dense --title 'One board'",
        f"{report} --on pi",
        f"{report} --since soon",
        "ferry report -o x.npy",
        "ferry report",
    )


def test_devices(transcript: Transcript, closed_port: int) -> None:
    transcript(
        "devices",
        "ferry device list",
        "ferry device add pi pi@127.0.0.1:{port}",
        "ferry device add pi pi@127.0.0.1:{port}",
        "ferry device list",
        "ferry device trust pi",
        "ferry device info pi",
        "ferry device remove pie",
        "ferry device remove pi",
        "ferry device list",
        port=closed_port,
    )


@pytest.mark.usefixtures("bundle")
def test_fleet(transcript: Transcript, closed_port: int, folder: Path) -> None:
    (folder / "hosts.ini").write_text(f"[house]\nroom[1:2] ansible_host=127.0.0.1 ansible_port={closed_port}\n")
    transcript(
        "fleet",
        "ferry device import hosts.ini --dry-run",
        "ferry device import hosts.ini --tag lab",
        "ferry device tag room1 quiet",
        "ferry device group all local",
        "ferry device group site local @house",
        "ferry device list",
        "ferry deploy dense --on @sit",
        "ferry deploy dense --on @site --jobs 1",
        "ferry deploy dense --on @house --jobs 1 --canary",
        "ferry fleet runs",
        "ferry fleet resume",
        "ferry fleet resume nothing",
        "ferry device remove room1",
        "ferry deploy dense --on @quiet",
    )


def test_usage(transcript: Transcript) -> None:
    transcript(
        "usage",
        "ferry",
        "ferry bensh",
        "ferry --nope",
        "ferry run",
        "ferry run dense.tflite --top 0",
        "ferry run dense.tflite --json=3",
        "ferry bench dense.tflite extra",
        "ferry bench dense.tflite --num-run 3",
        "ferry bench dense.tflite --num-runs ten",
        "ferry convert dense.tflite",
        "ferry convert dense.tflite -o",
        "ferry convert dense.tflite -o dense --quantise int8",
        "ferry push dense",
        "ferry profile",
        "ferry profile dense.tflite local pi@host",
        "ferry profile dense.tflite --on local --rounds 0",
        "ferry device ad pi pi@host",
        "ferry device add pi",
    )


def test_values(transcript: Transcript) -> None:
    convert = "ferry convert dense.tflite -o dense"
    transcript(
        "values",
        f"{convert} --to tfl",
        f"{convert} --to onnx",
        f"{convert} --quantize int4",
        f"{convert} --quantize int8",
        f"{convert} --io-dtype int8",
        f"{convert} --samples 0",
        f"{convert} --shape 1,2",
        f"{convert} --min-cosine 2",
        f"{convert} --max-abs nan",
        f"{convert} --recipe absent.toml",
        f"{convert} --max-drop 1",
        f"{convert} --evaluate labelled.npz --max-drop -1",
        f"{convert} --evaluate labelled.npz --metric top5",
        "ferry run dense.tflite --input x.npy --delegate gpuu",
        "ferry bench dense.tflite --delegate cpu:0",
        "ferry bench dense.tflite --seed -1",
        "ferry bench dense.tflite --min-secs 9 --max-secs 1",
        "ferry bench dense.tflite --budget p5O=1ms",
        "ferry bench dense.tflite --budget p50=1",
        "ferry bench dense.tflite --budget size=1mb",
        "ferry bench dense.tflite --budget p50",
        "ferry bench dense.tflite --junit report.xml",
        "ferry compare dense.tflite",
        "ferry compare --since yesterday",
        "ferry compare --csv --json",
        "ferry compare dense.tflite dense.tflite --on pi",
        "ferry compare --num-runs 3",
    )
