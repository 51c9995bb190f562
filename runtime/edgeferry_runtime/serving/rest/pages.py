"""``GET /``: one page for people. Everything that it is made of lies in `page`; nothing of it comes from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = ("style.css", "page.js", "icon.svg")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def index(request: Request) -> Response:
    """Show the page."""
    return _file("index.html")


async def part(request: Request) -> Response:
    """Give one of the files that the page is made of."""
    return _file(request.url.path.rpartition("/")[2])


def _file(name: str) -> Response:
    path = FOLDER / name
    return Response(path.read_bytes(), headers=HEADERS, media_type=TYPES[path.suffix])


routes = [Route("/", index, methods=["GET"]), *(Route(f"/{name}", part, methods=["GET"]) for name in FILES)]
