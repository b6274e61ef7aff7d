"""What a peer of the node protocol asks for, read with every field's type and size checked.

The api process is not trusted with more than the protocol gives it: what passes here names nothing on this host but what it may
name. No I/O.
Every function raises InvalidRequestError for what is missing, unknown, of the wrong type or too large.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from cloister.errors import InvalidRequestError
from cloister.ids import is_build_id, is_sandbox_id
from cloister.model.build import MAX_STEPS, STEP_ARGUMENTS, BuildFiles, BuildRequest, BuildStep, ImageSource
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRequest

__all__ = [
    "MAX_REPORT_ENTRIES",
    "build_id_of",
    "count_of",
    "label_of",
    "parse_build",
    "parse_request",
    "sandbox_id_of",
    "template_id_of",
    "typed",
]

MAX_REPORT_ENTRIES = 1000
_MAX_ARGS = max(most for _least, most in STEP_ARGUMENTS.values())
_MAX_TEXT = 131_072
"""The kernel takes no longer argument of a program (execve(2), MAX_ARG_STRLEN)."""
_MAX_SECRET = 16_384
_MAX_REQUEST_BYTES = 4 << 20
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_STOCK_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}\Z")
_COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_REFERENCE = re.compile(r"[!-~]{1,1024}\Z")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def typed(params: dict[str, Any], name: str, kinds: type | tuple[type, ...]) -> Any:
    """The field ``name``, of one of ``kinds``; a boolean is no number."""
    value = params.get(name)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise InvalidRequestError(f"{name} is missing or of the wrong type")
    return value


def sandbox_id_of(params: dict[str, Any]) -> str:
    """The field ``sandbox_id``."""
    value = params.get("sandbox_id")
    if not isinstance(value, str) or not is_sandbox_id(value):
        raise InvalidRequestError("sandbox_id is missing or malformed")
    return value


def build_id_of(params: dict[str, Any]) -> str:
    """The field ``build_id``, a UUID in lower case: it names a directory of the supervisor."""
    value = params.get("build_id")
    if not isinstance(value, str) or not is_build_id(value):
        raise InvalidRequestError("build_id is missing or malformed")
    return value


def template_id_of(params: dict[str, Any]) -> str:
    """The field ``template_id``."""
    return _matching(params, "template_id", _ID)


def label_of(params: dict[str, Any], name: str) -> str:
    """The field ``name``: a short text for people, without control characters."""
    value = _text(params.get(name), name, 256)
    if _UNPRINTABLE.search(value):
        raise InvalidRequestError(f"{name} has control characters")
    return value


def count_of(params: dict[str, Any], name: str, least: int, most: int) -> int:
    """The field ``name``, a whole number in these bounds, both included."""
    value = typed(params, name, int)
    if not least <= value <= most:
        raise InvalidRequestError(f"{name} is not from {least} to {most}")
    return int(value)


def parse_request(params: dict[str, Any]) -> SandboxRequest:
    """The request that ``params`` of ``create`` hold."""
    try:
        fields = dict(params)
        limits = fields.pop("limits", None)
        request = SandboxRequest(**fields, limits=None if limits is None else Limits(**limits))
    except TypeError as error:
        raise InvalidRequestError(f"create: {error}") from error
    sandbox_id_of(params)
    typed(params, "end_at", (int, float))
    texts = [request.template, request.access_token or "", request.runtime or "", *request.envs, *request.envs.values()]
    if not all(isinstance(text, str) for text in texts) or not isinstance(request.attributes, dict):
        raise InvalidRequestError("create: a field is of the wrong type")
    if not isinstance(request.allow_internet, bool):
        raise InvalidRequestError("create: allow_internet is not a boolean")
    if request.limits is not None and not all(_is_quantity(value) for value in vars(request.limits).values()):
        raise InvalidRequestError("create: a limit is not a positive number")
    return request


def parse_build(params: dict[str, Any]) -> BuildRequest:
    """The request that ``params`` of ``start_build`` hold."""
    unknown = params.keys() - BuildRequest.__dataclass_fields__.keys()
    if unknown:
        raise InvalidRequestError(f"start_build: unknown fields {', '.join(sorted(map(repr, unknown)))}")
    image, parent = params.get("image"), params.get("parent")
    if (image is None) == (parent is None):
        raise InvalidRequestError("start_build: exactly one of image and parent is needed")
    request = BuildRequest(
        build_id=build_id_of(params),
        template_id=template_id_of(params),
        team_id=_matching(params, "team_id", _ID),
        name=label_of(params, "name"),
        image=None if image is None else _image(image),
        parent=None if parent is None else _matching(params, "parent", _STOCK_NAME),
        steps=_steps(params.get("steps", [])),
        start_cmd=_text(params.get("start_cmd", ""), "start_cmd"),
        ready_cmd=_text(params.get("ready_cmd", ""), "ready_cmd"),
        cpu_count=_quantity(params, "cpu_count", (int, float)),
        mem_mib=_quantity(params, "mem_mib", int),
        disk_mib=_quantity(params, "disk_mib", int),
        force=_switch(params, "force"),
    )
    if len(json.dumps(params)) > _MAX_REQUEST_BYTES:
        raise InvalidRequestError(f"the build's definition is longer than {_MAX_REQUEST_BYTES >> 20} MiB")
    return request


def _image(data: Any) -> ImageSource:
    fields = _object(data, "image", ImageSource)
    reference = _text(fields.get("reference"), "the image's reference")
    if not _REFERENCE.match(reference):
        raise InvalidRequestError(f"'{reference[:200]}' is no reference of an image", hint="an image is named like python:3.12")
    username, password = (
        None if fields.get(name) is None else _text(fields[name], f"the image's {name}", _MAX_SECRET) for name in ("username", "password")
    )
    return ImageSource(reference=reference, username=username, password=password, is_aws_key=_switch(fields, "is_aws_key"))


def _steps(data: Any) -> tuple[BuildStep, ...]:
    if not isinstance(data, list) or len(data) > MAX_STEPS:
        raise InvalidRequestError(f"steps is not a list of at most {MAX_STEPS}")
    return tuple(_step(one, f"step {number}") for number, one in enumerate(data, 1))


def _step(data: Any, where: str) -> BuildStep:
    fields = _object(data, where, BuildStep)
    kind, args, files = fields.get("kind"), fields.get("args"), fields.get("files")
    if not isinstance(kind, str) or kind not in STEP_ARGUMENTS:
        raise InvalidRequestError(f"{where}: its kind is none of {', '.join(STEP_ARGUMENTS)}")
    if not isinstance(args, list) or not 1 <= len(args) <= _MAX_ARGS:
        raise InvalidRequestError(f"{where}: its arguments are not a list of 1 to {_MAX_ARGS} texts")
    if (files is None) == (kind == "COPY"):
        raise InvalidRequestError(f"{where}: COPY needs files, and nothing else has any")
    return BuildStep(
        kind=kind,
        args=tuple(_text(arg, f"{where}: an argument") for arg in args),
        files=None if files is None else _files(files, where),
        force=_switch(fields, "force"),
    )


def _files(data: Any, where: str) -> BuildFiles:
    """Two plain components, so that the path cannot leave ``uploads`` or name that directory itself."""
    fields = _object(data, f"{where}: its files", BuildFiles)
    path = _text(fields.get("path"), f"{where}: the archive's path", 257)
    components = path.split("/")
    if len(components) != 2 or not all(_COMPONENT.match(one) for one in components):
        raise InvalidRequestError(f"{where}: the archive's path is not two plain names")
    return BuildFiles(path=path, digest=_matching(fields, "digest", _DIGEST))


def _object(data: Any, where: str, kind: type[ImageSource | BuildStep | BuildFiles]) -> dict[str, Any]:
    if not isinstance(data, dict) or data.keys() - kind.__dataclass_fields__.keys():
        raise InvalidRequestError(f"{where} is not an object of the known fields")
    return data


def _matching(params: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not pattern.match(value):
        raise InvalidRequestError(f"{name} is missing or malformed")
    return value


def _text(value: Any, where: str, longest: int = _MAX_TEXT) -> str:
    """Text that a file and a program's argument can hold; ``longest`` counts bytes."""
    if not isinstance(value, str):
        raise InvalidRequestError(f"{where} is not a text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{where} is not valid Unicode") from error
    if size > longest or "\0" in value:
        raise InvalidRequestError(f"{where} is longer than {longest} bytes" if size > longest else f"{where} has a NUL")
    return value


def _quantity(params: dict[str, Any], name: str, kinds: type | tuple[type, ...]) -> Any:
    value = params.get(name)
    if value is not None and not (isinstance(value, kinds) and _is_quantity(value)):
        raise InvalidRequestError(f"{name} is not a positive number")
    return value


def _switch(params: dict[str, Any], name: str) -> bool:
    return bool(typed({name: params.get(name, False)}, name, bool))


def _is_quantity(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
