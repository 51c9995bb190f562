"""Progress of a compression on stderr: a bar on a terminal, else a line for each step."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

import click

from edgeferry_converter.compress.training import Event, Watch


@contextlib.contextmanager
def progress() -> Iterator[Watch]:
    """Return what shows each event; a step that fails ends its line."""
    with _own_stderr() as stream:
        display = _Display(stream)
        try:
            yield display.show
        finally:
            display.close()


@contextlib.contextmanager
def bar(label: str) -> Iterator[Any]:
    """Return what shows how many of how many are done: a bar on a terminal, else one line."""
    with _own_stderr() as stream:
        line, told = _Line(stream, label), "stopped"
        try:
            yield line.at
            told = "done"
        finally:
            line.close(told)


@contextlib.contextmanager
def _own_stderr() -> Iterator[IO[str]]:
    """Return stderr as it is now: training catches what is written to its descriptor."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (AttributeError, OSError):
        yield sys.stderr
        return
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as stream:
        yield stream


class _Line:
    """A line that grows: of a terminal a bar, else dots until it ends."""

    def __init__(self, stream: IO[str], label: str) -> None:
        self.stream, self.label = stream, label
        self.bar: Any = None
        self.terminal = stream.isatty()
        if not self.terminal:
            click.echo(f"{label} ... ", file=stream, nl=False)

    def at(self, done: int, of: int, told: str = "") -> None:
        """Show how far it is."""
        if not self.terminal:
            return
        if self.bar is None:
            show: Any = click.progressbar
            self.bar = show(length=of, label=self.label, file=self.stream, show_pos=True, item_show_func=_text)
            self.bar.render_progress()
        self.bar.update(max(0, done - self.bar.pos), told or self.bar.current_item)

    def close(self, told: str = "stopped") -> None:
        """End the line."""
        if self.bar is not None:
            self.bar.render_finish()
        click.echo(f"{self.label}: {told}" if self.terminal else told, file=self.stream)


def _text(item: Any) -> str:
    return item or ""


class _Display:
    """Shows one step after the other; what is to be noted stands below the step's line."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.line: _Line | None = None
        self.notes: list[str] = []

    def show(self, event: Event) -> None:
        """Show one event."""
        if event.doing == "begin":
            self.line = _Line(self.stream, event.step)
        elif event.doing == "train" and self.line:
            told = "" if event.score is None else f"loss {event.loss:.4g}, {event.score:.4g}"
            self.line.at(event.done, event.of, told)
        elif event.doing == "end" and self.line:
            self.line.close(f"{event.seconds:.1f} s, {event.score:.4g}")
            self.line = None
        elif event.doing == "note":
            self.notes.append(f"ferry: note: {f'{event.step}: ' if event.step else ''}{event.text}")
        if self.line is None:
            self._note()

    def close(self) -> None:
        """End what is open."""
        if self.line:
            self.line.close()
        self._note()

    def _note(self) -> None:
        for note in self.notes:
            click.echo(note, file=self.stream)
        self.notes.clear()
