"""Texts that must not be shown: tokens. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Secret", "conceal", "reveal"]


@dataclass(frozen=True, repr=False)
class Secret:
    """A text that neither ``repr``, ``str``, a log nor a traceback shows. Not a ``str``, so that no code uses it as one by mistake."""

    revealed: str
    """The text itself: for the file, the message or the header that has to carry it."""

    def __repr__(self) -> str:
        return "Secret(***)"


def conceal(text: str | None) -> Secret | None:
    """``text`` as a secret; None stays None."""
    return None if text is None else Secret(text)


def reveal(secret: Secret | None) -> str | None:
    """The text of ``secret``; None stays None."""
    return None if secret is None else secret.revealed
