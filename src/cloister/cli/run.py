"""``cloister run FILE``: runs a program in a new sandbox, as ``python FILE`` runs it here, and ends the sandbox.

The program gets the arguments and the standard input of this process, and an empty working directory of its own, which ``--save`` copies.
Exit codes: the program's own (128 and the number of the signal that ended it); 124 it was ended at the time limit; 125 it was not run, or
its end is not known; 126 the sandbox has no program for the language. With ``--kernel``, and for languages that only a kernel can run, the
file is a cell of the code interpreter instead (``cell.py``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloister.cli.attached import run_attached
from cloister.cli.cell import run_cell
from cloister.cli.endpoint import TIMED_OUT, add_server_options, find_server, parse_pairs, passes_on_code, run_client
from cloister.cli.starter import needs_beyond_starter
from cloister.client.api import ApiClient, NewSandbox, connect
from cloister.client.copying import download
from cloister.client.sandbox import Program, SandboxClient
from cloister.errors import InvalidRequestError, NotFoundError, UnavailableError
from cloister.model.template import STARTER
from cloister.protocol.languages import NATIVE_LANGUAGES

__all__ = ["add_options", "run"]

_LANGUAGES = {extension: language.name for language in NATIVE_LANGUAGES for extension in language.extensions}
_ALIASES = {alias: language.name for language in NATIVE_LANGUAGES for alias in language.aliases}
_PROGRAMS = {
    "python": (("python3", "-u"), "main.py"),
    "javascript": (("node",), "main.js"),
    "r": (("Rscript",), "main.r"),
    "java": (("java",), "Main.java"),
    "bash": (("bash",), "main.sh"),
}
"""By language: the command that runs a file, and a name for a file that has none. Others run in a kernel: Node.js 20 has no TypeScript."""
_DIRECTORY = "/tmp/run"  # noqa: S108 - in the sandbox, which is new
_TEMPLATE = "code-interpreter-v1"
_LONGER_S = 60
"""How much longer than the program the sandbox may live, for its start and for ``--save``."""
_PLOTS = "/tmp/.cloister-plots"  # noqa: S108 - as above
_BACKEND = """import itertools, os
from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase as FigureManager
from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas
directory, numbers = os.getcwd(), itertools.count(1)
def show(*args, **kwargs):
    for manager in Gcf.get_all_fig_managers():
        manager.canvas.figure.savefig(os.path.join(directory, f"plot-{next(numbers)}.png"))
    Gcf.destroy_all()
"""
"""A backend of matplotlib, for ``--save``: ``show()`` writes each open figure into the working directory."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A program, or a cell if ``program`` is None."""

    name: str
    source: bytes
    language: str
    envs: Mapping[str, str]
    program: Program | None
    save: Path | None
    timeout_s: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.usage = "%(prog)s [OPTION]... FILE [ARGUMENT]..."
    parser.add_argument("file", metavar="FILE", type=Path, help="the program; - is standard input. Options stand before it")
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="arguments of the program")
    parser.add_argument("--language", help="language of the program (default: by the file's extension)")
    parser.add_argument("--template", help=f"template of the sandbox (default: {_TEMPLATE}; {STARTER} until that is built)")
    parser.add_argument("--timeout", type=int, default=300, metavar="S", help="time limit in seconds (default: %(default)s)")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable; may be given several times")
    saved = "copy what the program writes into its working directory, and its plots, to DIR"
    parser.add_argument("--save", type=Path, metavar="DIR", help=saved)
    kernel = "run the file as a cell of the code interpreter: results are printed, and saved by --save"
    parser.add_argument("--kernel", action="store_true", help=kernel)
    add_server_options(parser)


@passes_on_code
def run(args: argparse.Namespace) -> int:
    """Run the file and return its exit code."""
    job = _job(args)
    if job.save is not None:
        _make_directory(job.save)
    return run_client(_run(args, job))


def _job(args: argparse.Namespace) -> _Job:
    named = args.language or _LANGUAGES.get(args.file.suffix.lower())
    if named is None:
        raise InvalidRequestError(f"cannot tell the language of {args.file} from its extension", hint="give --language")
    if args.timeout < 1:
        raise InvalidRequestError("--timeout must be at least 1 second")
    language, is_input = _ALIASES.get(named.lower(), named.lower()), str(args.file) == "-"
    command, default = _PROGRAMS.get(language, ((), "cell"))
    is_cell = args.kernel or not command
    if is_cell and args.arguments:
        raise InvalidRequestError("a cell of a kernel has no arguments", hint="give it variables by --env")
    name, envs = default if is_input else args.file.name, parse_pairs("--env", args.env)
    plots = {"MPLBACKEND": "module://cloister_plots", "PYTHONPATH": _PLOTS} if args.save is not None and language == "python" else {}
    words = (*command, f"./{name}" if name.startswith("-") else name, *args.arguments)
    program = Program(argv=words, cwd=_DIRECTORY, envs={**plots, **envs}, has_input=not is_input)
    return _Job(
        name=name,
        source=_read(args.file),
        language=language,
        envs=envs,
        program=None if is_cell else program,
        save=args.save,
        timeout_s=args.timeout,
    )


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {file}: {error.strerror}", hint="give the path of a program") from error


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(f"cannot make the directory {path}: {error.strerror}", hint="give --save another one") from error


async def _run(args: argparse.Namespace, job: _Job) -> int:
    new = NewSandbox(template=args.template or _TEMPLATE, timeout_s=job.timeout_s + _LONGER_S, envs={})
    async with connect(find_server(args)) as api, contextlib.AsyncExitStack() as stack:
        try:
            sandbox = await stack.enter_async_context(api.sandbox(new))
        except (NotFoundError, UnavailableError):
            if args.template is not None or not await _runs_in_starter(api, job):
                raise
            what = f"{job.name} runs in {STARTER}, with Python's standard library and bash"
            print(f"cloister: {_TEMPLATE} is not built yet; {what}", file=sys.stderr)
            sandbox = await stack.enter_async_context(api.sandbox(replace(new, template=STARTER)))
        try:
            async with asyncio.timeout(job.timeout_s) as limit:
                code = await (_run_cell(sandbox, job) if job.program is None else _run_program(sandbox, job, job.program))
        except TimeoutError:
            if not limit.expired():
                raise
            print(f"cloister: {job.name} was ended: it ran for {job.timeout_s} s, its time limit (--timeout)", file=sys.stderr)
            code = TIMED_OUT
        except UnavailableError as error:
            raise UnavailableError(f"the run was cut off before its end: {await api.explain(sandbox.sandbox_id, error)}") from error
        if job.save is not None:
            await _save(sandbox, job.save, job.name)
        return code


async def _runs_in_starter(api: ApiClient, job: _Job) -> bool:
    """Whether this is a new server, which is still building the default template, and the program needs no more than ``starter`` has."""
    built = {name for template in await api.ask("GET", "/default-templates") for name in template["aliases"]}
    return _TEMPLATE not in built and STARTER in built and not needs_beyond_starter(job.language, job.source)


async def _run_program(sandbox: SandboxClient, job: _Job, program: Program) -> int:
    await sandbox.write(f"{_DIRECTORY}/{job.name}", job.source, None)
    if job.save is not None:
        await sandbox.write(f"{_PLOTS}/cloister_plots.py", _BACKEND.encode(), None)
    return await run_attached(sandbox, program)


async def _run_cell(sandbox: SandboxClient, job: _Job) -> int:
    try:
        code = job.source.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"cannot run {job.name}: it is not text in UTF-8", hint="give the source of a program") from error
    body: dict[str, Any] = {"code": code, "env_vars": dict(job.envs)}
    if job.save is None:
        body["language"] = job.language
    else:
        await sandbox.make_directory(_DIRECTORY)
        body["context_id"] = await sandbox.create_context(job.language, _DIRECTORY)
    return await run_cell(sandbox, body, job.save)


async def _save(sandbox: SandboxClient, directory: Path, name: str) -> None:
    """Copy the working directory, without the program itself. Prints the members that were left out; the exit code stays the program's."""
    if await sandbox.stat(_DIRECTORY, None) is not None:
        for one in await download(sandbox, _DIRECTORY, directory, None, leave_out=name):
            print(f"cloister: left out: {one}", file=sys.stderr)
