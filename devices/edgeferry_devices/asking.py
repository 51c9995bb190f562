"""Passphrases and passwords: asked for when they are needed, kept while a command runs, written nowhere."""

from __future__ import annotations

import threading
from collections.abc import Callable

Ask = Callable[[str], "str | None"]
"""Puts a question to the user without echoing the answer; None where there is nobody to ask."""


class Secrets:
    """What the user was asked for. One object may serve many devices and threads: each secret is asked for once.

    Args:
        ask: Asks the user; without it nobody is asked.
    """

    def __init__(self, ask: Ask | None = None) -> None:
        self._ask = ask
        self._kept: dict[str, str] = {}
        self._declined: set[str] = set()
        self._lock = threading.Lock()

    def get(self, question: str, wrong: str | None = None) -> str | None:
        """Return the answer to a question, asking only where it is not known yet.

        Args:
            question: What to ask; it names the key or the account.
            wrong: The answer that was given before and did not fit; it is forgotten.

        Returns:
            The answer; None where nobody gives one, who is not asked the same again.
        """
        with self._lock:
            if self._kept.get(question) == wrong:
                self._kept.pop(question, None)
            if self._ask and question not in self._kept and question not in self._declined:
                if answer := self._ask(question):
                    self._kept[question] = answer
                else:
                    self._declined.add(question)
            return self._kept.get(question)
