"""The output and results of a run as MCP content, in order and bounded.

The bound protects the model's context and this process's memory, because code in a sandbox may print without end.
"""

from __future__ import annotations

import re
from typing import Literal

from e2b_code_interpreter import ExecutionError, Result
from mcp.types import ContentBlock, ImageContent, TextContent

__all__ = ["MAX_TEXT", "Transcript"]

MAX_TEXT = 60_000
"""Characters of one answer; of more the beginning and the end are kept."""
_MAX_IMAGES = 20
_MAX_IMAGE_CHARS = 7_000_000
"""Of one image in base64: 5 MiB, what models take."""
_TEXTS: tuple[Literal["text", "markdown", "latex", "html", "svg", "javascript"], ...] = (
    "text",
    "markdown",
    "latex",
    "html",
    "svg",
    "javascript",
)
"""Fields of a result that are text, the most readable first."""
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Transcript:
    """Text and images in the order in which they came."""

    def __init__(self) -> None:
        self._parts: list[str | ImageContent] = []
        self._chars = 0
        self._dropped = 0
        self._tail = ""
        self._images = 0
        self.seen = 0
        """Characters that came, kept or not."""

    def write(self, text: str) -> None:
        """Add text."""
        self._chars += len(text)
        self.seen += len(text)
        kept = max(0, MAX_TEXT // 2 - (self._chars - len(text)))
        if text[:kept]:
            if self._parts and isinstance(self._parts[-1], str):
                self._parts[-1] += text[:kept]
            else:
                self._parts.append(text[:kept])
        rest = self._tail + text[kept:]
        self._tail = rest[-(MAX_TEXT // 2) :]
        self._dropped += len(rest) - len(self._tail)

    def note(self, text: str) -> None:
        """Add a remark of this program's, on a line of its own."""
        last = self._tail or (self._parts[-1] if self._parts else "")
        begin = "\n" if isinstance(last, str) and last and not last.endswith("\n") else ""
        self.write(f"{begin}[{text}]\n")

    def show(self, result: Result) -> None:
        """Add a result: its image if it has one, else its most readable text."""
        self.seen += sum(len(value) for value in vars(result).values() if isinstance(value, str))
        for data, kind in ((result.png, "image/png"), (result.jpeg, "image/jpeg")):
            if data:
                self._show_image("".join(data.split()), kind)
                return
        text = next((value for field in _TEXTS if (value := getattr(result, field))), None)
        if text is None and result.json is not None:
            text = str(result.json)
        if text is not None:
            self.write(text if text.endswith("\n") else f"{text}\n")
        elif result.pdf:
            self.note("a PDF document: write it to a file and read the file")

    def _show_image(self, data: str, kind: str) -> None:
        self._images += 1
        if self._images > _MAX_IMAGES:
            self.note(f"image {self._images} is left out: at most {_MAX_IMAGES} for each call")
        elif len(data) > _MAX_IMAGE_CHARS:
            self.note("an image of more than 5 MiB is left out")
        else:
            self._parts.append(ImageContent(type="image", data=data, mime_type=kind))

    def fail(self, error: ExecutionError) -> None:
        """Add what ended the run, as the language tells it."""
        text = _ANSI.sub("", error.traceback or "").strip() or f"{error.name}: {error.value}"
        self.write(f"{text}\n")

    def content(self) -> list[ContentBlock]:
        """All of it; a note stands where the middle of a long text was dropped."""
        parts: list[str | ImageContent] = [*self._parts]
        if self._tail:
            note = f"\n[… {self._dropped} characters left out …]\n" if self._dropped else ""
            if note or not parts or not isinstance(parts[-1], str):
                parts.append(f"{note}{self._tail}")
            else:
                parts[-1] += self._tail
        return [TextContent(type="text", text=part) if isinstance(part, str) else part for part in parts]

    def take(self) -> list[ContentBlock]:
        """All of it, and begin anew."""
        content = self.content()
        self.__init__()  # type: ignore[misc]  # back to how it began
        return content
