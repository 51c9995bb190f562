"""``POST /predict`` over real HTTP: a picture in, labels out, and a clear answer to what is wrong."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from edgeferry_runtime.model import load

Png = Callable[[int], bytes]


def ask(server: Any, where: str = "", **sent: Any) -> requests.Response:
    return requests.post(f"{server.http}/predict{where}", timeout=60, **sent)


def bomb(width: int, height: int) -> bytes:
    """A PNG of some 60 bytes that claims to be so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("field", ["image", "file", "picture"])
def test_a_form_file_is_named_as_the_model_names_it(people: Any, naming: Path, png: Png, field: str) -> None:
    with load(naming) as model:
        expected = model.classify(png(3), 3)
    answer = ask(people, "?top=3", files={field: ("three.png", png(3), "image/png")})
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert (told["model"], told["version"]) == ("digits", "1")
    assert told["predictions"] == [vars(one) for one in expected]
    assert set(told["ms"]) == {"queue", "compute"} and min(told["ms"].values()) >= 0


def test_a_body_that_is_the_picture_and_a_form_say_the_same(people: Any, png: Png) -> None:
    by_form = ask(people, files={"image": png(5)}, data={"model": "digits", "version": "1", "top": "5"}).json()
    by_body = ask(people, "?model=digits", data=png(5), headers={"Content-Type": "image/png"}).json()
    assert len(by_form["predictions"]) == 5
    assert by_form["predictions"] == by_body["predictions"]


def test_a_large_file_never_goes_to_the_disk(people: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """Beyond what a form parser keeps in memory by itself, with no folder for temporary files at all."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 1500), np.uint8)).save(file, "PNG")
    assert len(file.getvalue()) > 2 << 20
    assert ask(people, files={"image": file.getvalue()}).status_code == 200


PICTURE = {"files": {"image": b"PNG"}}
WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("", {}, 415, "the body: is neither a form with a file nor a picture; send it as the file of a form"),
    ("", {"json": {"image": "x"}}, 415, "is neither a form with a file nor a picture"),
    ("", {"data": b"", "headers": {"Content-Type": "image/png"}}, 400, "the picture: is empty"),
    ("", {"files": {"top": (None, "3")}}, 400, "the form: has no files"),
    ("", {"files": {"image": (None, "cat.jpg")}}, 400, "field 'image': is text and no file"),
    ("", {"files": {"cat": b"x"}}, 400, "field 'cat': is no field for a file; valid are image, file, picture"),
    ("", {"files": [("image", b"x"), ("image", b"y")]}, 400, "the form: has 2 files"),
    ("", {"files": {"image": b""}}, 400, "the picture: is empty"),
    ("", {"files": {"image": b"only words"}}, 400, "the picture: cannot be read as a picture (of no known kind)"),
    ("", {"files": {"image": bomb(50_000, 50_000)}}, 400, "2500000000 pixels"),
    ("", {"files": {"image": bomb(10_000, 10_000)}}, 400, "100000000 pixels"),
    ("", {"files": {"image": bomb(8, 8)}}, 400, "cannot be read as a picture"),
    ("", {"files": {"image": jpeg()[:-500]}}, 400, "the picture: cannot be read as a picture (image file is truncated"),
    ("?model=blind", PICTURE, 400, "model 'blind': cannot name what a picture shows: it does not say how a picture"),
    ("?model=dog", PICTURE, 404, "model 'dog': is not here; there are: blind, digits"),
    ("?model=digits&version=7", PICTURE, 404, "version 7 of model 'digits': is not here"),
    ("?top=0", PICTURE, 400, "top: is '0'; give a number of classes, at least 1"),
    ("?top=abc", PICTURE, 400, "top: is 'abc'"),
    ("?top=-1", PICTURE, 400, "top: is '-1'"),
    ("?top=" + "9" * 5000, PICTURE, 400, "top: is '999"),
    ("?top=²", PICTURE, 400, "top: is '²'"),
    ("?version=1", PICTURE, 400, "option version: is given without a model; name the model as well"),
    ("?modle=digits", PICTURE, 400, "option 'modle': is unknown; valid are model, version, top"),
    ("?top=1&top=2", PICTURE, 400, "option top: is given twice"),
    (
        "",
        {"data": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "the form: has no boundary; send a whole one",
    ),
    (
        "",
        {"data": b"wild", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        400,
        "the form: cannot be read; send a whole one",
    ),
]


@pytest.mark.parametrize(("where", "sent", "status", "said"), WRONG)
def test_what_is_wrong_is_said(people: Any, where: str, sent: dict[str, Any], status: int, said: str) -> None:
    answer = ask(people, where, **sent)
    assert said in answer.json()["error"]
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert " object at 0x" not in answer.text


def test_a_server_without_such_a_model_says_so(server: Any, png: Png) -> None:
    answer = ask(server, files={"image": png(0)})
    assert answer.status_code == 404
    assert answer.json()["error"] == "a model that names pictures: is not here; GET /status says why"
