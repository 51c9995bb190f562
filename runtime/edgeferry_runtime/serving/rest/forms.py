"""Forms with files, read in memory, where the limit of a body holds them: nothing of them goes to the disk.

Source: RFC 7578, "Returning Values from Forms: multipart/form-data"; RFC 2046, section 5.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from edgeferry_runtime.serving.refusals import Kind, RefusedError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM = "multipart/form-data"
MOST = 16
"""Fields of a form; nothing here takes more."""


@dataclass
class Field:
    """A field of a form.

    Attributes:
        name: What it is called.
        is_file: Whether it came with a file's name.
        content: What it holds.
    """

    name: str = ""
    is_file: bool = False
    content: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        """What it holds, as text."""
        return self.content.decode(errors="replace")


def media_type(request: Request) -> str:
    """Return the media type of a request's body, without its parameters; empty where none is said."""
    return parse_options_header(request.headers.get("content-type"))[0].decode("latin-1")


async def read_form(request: Request) -> list[Field]:
    """Read a form.

    Args:
        request: A request with the content type ``multipart/form-data``.

    Raises:
        RefusedError: INVALID if it is no whole form, or has more than 16 fields.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    if not options.get(b"boundary"):
        raise _refused("has no boundary")
    form = _Form()
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
    except FormParserError as error:
        raise _refused("cannot be read") from error
    if not form.ended:
        raise _refused("breaks off before its end")
    return form.fields


class _Form:
    """Hears what the parser finds."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.ended = False
        self._header, self._value = bytearray(), bytearray()

    def callbacks(self) -> MultipartCallbacks:
        """Return what it wants to hear, and how."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._read_header,
            "on_part_data": lambda data, start, end: self.fields[-1].content.extend(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.fields) == MOST:
            raise _refused(f"has more than {MOST} fields")
        self.fields.append(Field())

    def _read_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self.fields[-1].name = options.get(b"name", b"").decode(errors="replace")
            self.fields[-1].is_file = b"filename" in options
        self._header, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        self.ended = True


def _refused(reason: str) -> RefusedError:
    return RefusedError(Kind.INVALID, "the form", reason, "send a whole one, as curl -F does")
