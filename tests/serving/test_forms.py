"""Forms: whatever is in them comes out again, however the network cuts it; what is no form is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.forms import MOST, Field, read_form

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters='"\\'), min_size=1, max_size=9
)
CONTENTS = st.binary(max_size=99) | st.sampled_from([b"\r\n--b", b"\r\n--b-", b"--b--", b"\r\n\r\n", b"\r"])
FIELDS = st.lists(st.tuples(NAMES, st.booleans(), CONTENTS), max_size=MOST)


def written(fields: list[tuple[str, bool, bytes]]) -> bytes:
    """A form, as a browser writes it."""
    parts = []
    for name, is_file, content in fields:
        file = b'; filename="x"' if is_file else b""
        parts.append(b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n' % (b"bOuNd", name.encode(), file))
        parts.append(content + b"\r\n")
    return b"".join(parts) + b"--bOuNd--\r\n"


def read(body: bytes, size: int = 1 << 20, kind: str = "multipart/form-data; boundary=bOuNd") -> list[Field]:
    def messages() -> Iterator[dict[str, Any]]:
        for start in range(0, len(body), size):
            yield {"type": "http.request", "body": body[start : start + size], "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}

    left = messages()

    async def receive() -> Any:
        return next(left)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    return asyncio.run(read_form(Request(scope, receive)))


@given(FIELDS, st.integers(1, 64))
def test_what_is_written_is_read(fields: list[tuple[str, bool, bytes]], size: int) -> None:
    found = read(written(fields), size)
    assert [(one.name, one.is_file, bytes(one.content)) for one in found] == fields


@given(FIELDS.filter(bool), st.data())
def test_a_part_of_a_form_is_none(fields: list[tuple[str, bool, bytes]], data: st.DataObject) -> None:
    whole = written(fields)
    with pytest.raises(RefusedError, match=r"the form: (breaks off|cannot be read)") as refused:
        read(whole[: data.draw(st.integers(0, len(whole) - len(b"--\r\n")))])
    assert refused.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (written([]), "multipart/form-data", "has no boundary"),
        (written([]), "multipart/form-data; boundary=" + "b" * 999, "cannot be read"),
        (b"wild", "multipart/form-data; boundary=bOuNd", "cannot be read"),
        (b"", "multipart/form-data; boundary=bOuNd", "breaks off before its end"),
        (written([("a", False, b"")] * (MOST + 1)), "multipart/form-data; boundary=bOuNd", "has more than 16 fields"),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, kind: str, said: str) -> None:
    with pytest.raises(RefusedError, match=f"the form: {said}"):
        read(body, kind=kind)


def test_text_that_is_no_utf_8_is_read_with_marks() -> None:
    assert read(written([("top", False, b"3\xff")]))[0].text == "3\ufffd"
