"""Checks of clients' texts: files, databases, program arguments and terminals cannot take every string. Pure."""

from __future__ import annotations

from cloister.errors import InvalidRequestError

__all__ = ["printable", "size_of_text"]


def size_of_text(text: str, where: str) -> int:
    """Length of ``text`` in UTF-8 bytes. Raises: InvalidRequestError (names ``where``): a NUL, or half of a surrogate pair."""
    if "\0" in text:
        raise InvalidRequestError(f"{where} must not have a NUL character")
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{where} must not have half of a surrogate pair") from error


def printable(text: str) -> str:
    """The text with each control character replaced, so that it cannot steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
