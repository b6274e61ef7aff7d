"""Shortens an error that is too long to show: frames of a deep recursion, links of a long chain, parts of a long text.

The exception is the user's, so it is restored after it was rendered. The text says how much was omitted.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from types import TracebackType

__all__ = ["MAX_ERROR_CHARS", "cut", "name_left_out", "shortened"]

MAX_ERROR_CHARS = 1 << 20
"""Bounds of an error's value, and of its traceback."""
_MAX_FRAMES = 60
_KEPT_FRAMES = 20
"""Frames kept at each end."""
_MAX_LINKS = 12
_KEPT_LINKS = 5
_MARK = "<frames left out: {}>"
_MARKED = re.compile(r"<frames left out: (\d+)>")


class LeftOut(Exception):  # noqa: N818 - it is shown by this name
    """Replaces the omitted exceptions of a chain."""


LeftOut.__module__ = "builtins"


@contextlib.contextmanager
def shortened(error: BaseException) -> Iterator[None]:
    """Within the block, the error's traceback and chain are short enough to be rendered quickly."""
    with contextlib.ExitStack() as undo:
        chain = [error]
        seen = {id(error)}
        while (cause := _cause(chain[-1])) is not None and id(cause) not in seen:
            chain.append(cause)
            seen.add(id(cause))
        if len(chain) > _MAX_LINKS:
            left_out = LeftOut(f"{len(chain) - 2 * _KEPT_LINKS:,} exceptions of this chain are not shown")
            left_out.__cause__ = chain[-_KEPT_LINKS]
            nearest = chain[_KEPT_LINKS - 1]
            undo.callback(_restore_links, nearest, nearest.__cause__, nearest.__context__, nearest.__suppress_context__)
            nearest.__cause__ = left_out
            chain = chain[:_KEPT_LINKS] + chain[-_KEPT_LINKS:]
        for one in chain:
            undo.callback(one.with_traceback, one.__traceback__)
            one.__traceback__ = _short(one.__traceback__)
        yield


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _restore_links(error: BaseException, cause: BaseException | None, context: BaseException | None, suppress: bool) -> None:
    error.__cause__, error.__context__, error.__suppress_context__ = cause, context, suppress


def _short(tb: TracebackType | None) -> TracebackType | None:
    frames = []
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    if len(frames) <= _MAX_FRAMES:
        return frames[0] if frames else None
    result: TracebackType | None = None
    for one in reversed(frames[-_KEPT_FRAMES:]):
        result = TracebackType(result, one.tb_frame, one.tb_lasti, one.tb_lineno)
    mark = _marking(len(frames) - 2 * _KEPT_FRAMES)
    result = TracebackType(result, mark.tb_frame, mark.tb_lasti, mark.tb_lineno)
    for one in reversed(frames[:_KEPT_FRAMES]):
        result = TracebackType(result, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return result


def _marking(count: int) -> TracebackType:
    """A frame that replaces others; its file name tells their number."""
    try:
        exec(compile("raise ValueError", _MARK.format(count), "exec"), {})
    except ValueError:
        tb = sys.exc_info()[2]
    assert tb is not None
    assert tb.tb_next is not None
    return tb.tb_next


def name_left_out(parts: list[str]) -> list[str]:
    """The rendered traceback, with a line for omitted parts; each part is a frame."""
    return [f"    [... {int(found[1]):,} frames are not shown ...]\n" if (found := _MARKED.search(part)) else part for part in parts]


def cut(text: str, limit: int = MAX_ERROR_CHARS) -> str:
    """The text, or its two ends around a note if it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters are not shown ...]\n{text[-half:]}"
