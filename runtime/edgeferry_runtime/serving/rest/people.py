"""``POST /predict``: a picture in, labels and scores out, for people and their scripts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.refusals import Kind, RefusedError, refuse
from edgeferry_runtime.serving.release import Release
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.rest.answers import json_answer
from edgeferry_runtime.serving.rest.bodies import read_body
from edgeferry_runtime.serving.rest.forms import FORM, Field, media_type, read_form
from edgeferry_runtime.serving.service import Named, Service, default

FILES = ("image", "file", "picture")
"""What the field of the picture may be called."""
OPTIONS = ("model", "version", "top")
TOP = 5
HOW = "send it as the file of a form (curl -F image=@FILE), or as the body with a Content-Type such as image/jpeg"


@dataclass(frozen=True)
class Question:
    """What a client asks.

    Attributes:
        picture: The bytes of a PNG, JPEG, BMP or WebP file.
        model: Which model; empty takes the first one that names pictures.
        version: Which version of it; empty takes the default one.
        top: How many classes to name.
    """

    picture: bytes
    model: str = ""
    version: str = ""
    top: int = TOP


async def predict(request: Request) -> Response:
    """Name what a picture shows."""
    service: Service = request.app.state.service
    question = await read(request)
    repository = service.repository
    release = repository.find(question.model, question.version) if question.model else first_that_classifies(repository)
    try:
        named = await service.classify(release.name, question.picture, question.top, release.version)
    except EdgeferryError as error:
        raise refuse(error, f"model {release.name!r}") from error
    return json_answer(_told(named))


def _told(named: Named) -> dict[str, object]:
    ms = {"queue": named.queue_ms, "compute": named.compute_ms}
    return {
        "model": named.release.name,
        "version": str(named.release.version),
        "predictions": [vars(prediction) for prediction in named.predictions],
        "ms": {name: round(value, 3) for name, value in ms.items()},
    }


def first_that_classifies(repository: Repository) -> Release:
    """Return the first model, by name, that can name pictures; its default version.

    Raises:
        RefusedError: NOT_FOUND if there is none.
    """
    for name in dict.fromkeys(listing.name for listing in repository.index()):
        release = default(repository, name)
        if release is not None and not release.primary.doubt:
            return release
    raise RefusedError(Kind.NOT_FOUND, "a model that names pictures", "is not here", "GET /status says why")


async def read(request: Request) -> Question:
    """Read a question from a form, or from a body that is the picture.

    Raises:
        RefusedError: MEDIA_TYPE if the body is neither, INVALID if there is not one picture or an option is wrong.
    """
    kind = media_type(request)
    given = request.query_params.multi_items()
    if kind == FORM:
        form = await read_form(request)
        picture = _picture(form)
        given += [(field.name, field.text) for field in form if not field.is_file]
    elif kind.startswith("image/"):
        picture = await read_body(request)
    else:
        raise RefusedError(Kind.MEDIA_TYPE, "the body", "is neither a form with a file nor a picture", HOW)
    if not picture:
        raise RefusedError(Kind.INVALID, "the picture", "is empty", HOW)
    options = _options(given)
    return Question(picture, options.get("model", ""), options.get("version", ""), _top(options.get("top")))


def _picture(form: list[Field]) -> bytes:
    """Return the only file of a form.

    Raises:
        RefusedError: INVALID if it is not there, or not alone, or has another name.
    """
    for field in form:
        if field.is_file and field.name not in FILES:
            known = f"valid are {', '.join(FILES)}"
            raise RefusedError(Kind.INVALID, f"field {field.name[:40]!r}", "is no field for a file", known)
        if field.name in FILES and not field.is_file:
            raise RefusedError(Kind.INVALID, f"field {field.name!r}", "is text and no file", HOW)
    files = [field for field in form if field.is_file]
    if len(files) != 1:
        raise RefusedError(Kind.INVALID, "the form", f"has {len(files) or 'no'} files", HOW)
    return bytes(files[0].content)


def _options(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in given:
        if name not in OPTIONS:
            raise RefusedError(Kind.INVALID, f"option {name[:40]!r}", "is unknown", f"valid are {', '.join(OPTIONS)}")
        if name in found:
            raise RefusedError(Kind.INVALID, f"option {name}", "is given twice", "give it once")
        found[name] = value
    if found.get("version") and not found.get("model"):
        raise RefusedError(Kind.INVALID, "option version", "is given without a model", "name the model as well")
    return found


def _top(text: str | None) -> int:
    if not text:
        return TOP
    if not text.isascii() or not text.isdigit() or len(text) > 6 or not int(text):
        raise RefusedError(Kind.INVALID, "top", f"is {text[:40]!r}", "give a number of classes, at least 1")
    return int(text)


routes = [Route("/predict", predict, methods=["POST"])]
