"""What the commands print, word for word; what differs between machines is masked."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

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
    transcript("push_and_profile", push, push, f"ferry profile dense local {QUICK}")


@pytest.mark.usefixtures("bundle")
def test_run_on_a_device(transcript: Transcript) -> None:
    transcript("run_on_a_device", "ferry run dense --device local")


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
        "ferry run dense.tflite --input x.npy --delegate gpuu",
        "ferry bench dense.tflite --delegate cpu:0",
        "ferry bench dense.tflite --seed -1",
        "ferry bench dense.tflite --min-secs 9 --max-secs 1",
    )
