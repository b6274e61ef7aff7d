"""The Node driver against its protocol, in the code-interpreter root."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from framework.driver_root import DRIVER_SOURCE, DRIVERS, DriverProcess, DriverRoot
from framework.node_driver import ARGV, TAKEN, Messages, Start, error, text, value
from framework.waiting import eventually

__all__: list[str] = []
pytestmark = [pytest.mark.root, pytest.mark.templates]

def interrupt_after(kernel: DriverProcess, code: str, delay_s: float = 0.4, limit_s: float = 15) -> Messages:
    """Run code and interrupt it by message."""
    threading.Timer(delay_s, lambda: kernel.send({"op": "interrupt", "id": kernel._last_id})).start()
    started = time.monotonic()
    messages = kernel.execute(code, timeout_s=2 * limit_s)
    assert time.monotonic() - started < limit_s
    return messages


def test_state_is_kept_and_const_can_be_redeclared(node: DriverProcess) -> None:
    """Top-level const, let, class and functions live on, and may be declared again."""
    node.execute("const a = 1; class C {}; function f() { return a }")
    assert value(node.execute("f()")) == "1"
    node.execute("const a = 2; class C { m() { return 3 } }")
    assert value(node.execute("a + new C().m()")) == "5"


def test_results_are_inspected_and_json_comes_along(node: DriverProcess) -> None:
    """A plain object gives text and JSON, undefined gives nothing, an object literal is not a block."""
    result = node.execute("({a: 1, b: ['x']})")[0]
    assert result["data"] == {"text/plain": "{ a: 1, b: [ 'x' ] }", "application/json": {"a": 1, "b": ["x"]}}
    assert result["main"] is True
    assert value(node.execute("undefined")) is None
    assert value(node.execute("{a: 1}")) == "{ a: 1 }"
    assert "application/json" not in node.execute("({a: NaN})")[0]["data"]


def test_display_symbol_gives_a_bundle(node: DriverProcess) -> None:
    """A value with Symbol.for("Jupyter.display") chooses its MIME types; bytes become base64."""
    code = "({[Symbol.for('Jupyter.display')]: () => ({'text/html': '<b>x</b>', 'image/png': new Uint8Array([1, 2])})})"
    assert node.execute(code)[0]["data"] == {"text/html": "<b>x</b>", "image/png": "AQI="}


def test_each_print_is_one_message(node: DriverProcess) -> None:
    """console.log is one message on stdout, console.error one on stderr, a split UTF-8 sequence survives."""
    split = "process.stdout.write(Buffer.from([0xc3])); process.stdout.write(Buffer.from([0xa9]))"
    messages = node.execute(f"console.log('é', {{a: 1}}); console.error('e'); {split}; 0")
    assert [(m["op"], m["text"]) for m in messages[:3]] == [("stdout", "é { a: 1 }\n"), ("stderr", "e\n"), ("stdout", "é")]


def test_a_cell_waits_for_callbacks(node: DriverProcess) -> None:
    """Timers, file, zlib, crypto, child process and promise callbacks print before the run is done."""
    code = """
    const fs = require('fs');
    setTimeout(() => console.log('timer'), 100);
    fs.readFile('/etc/passwd', () => console.log('file'));
    fs.promises.stat('/').then(() => console.log('promise'));
    require('zlib').gzip('x', () => console.log('zlib'));
    require('crypto').pbkdf2('a', 'b', 1000, 8, 'sha1', () => console.log('crypto'));
    require('child_process').exec('sleep 0.2; echo child', (e, out) => console.log(out.trim()));
    undefined"""
    assert sorted(text(node.execute(code)).split()) == ["child", "crypto", "file", "promise", "timer", "zlib"]


def test_http_data_and_end_handlers_print(node: DriverProcess) -> None:
    """A server started in one cell answers the next; that cell waits for its own request and not for the server."""
    started = time.monotonic()
    node.execute("const server = require('http').createServer((q, r) => setTimeout(() => r.end('pong'), 50)).listen(8101)")
    handlers = "let d = ''; res.on('data', c => d += c); res.on('end', () => console.log(d))"
    get = f"require('http').get('http://127.0.0.1:8101/', res => {{ {handlers} }}); 0"
    assert text(node.execute(get)) == "pong\n"
    for _ in range(2):  # the second time over the connection that was kept
        assert text(node.execute("fetch('http://127.0.0.1:8101/').then(r => r.text()).then(t => console.log('f', t)); 0")) == "f pong\n"
    assert time.monotonic() - started < 3


def test_an_interval_ends_the_cell_when_cleared(node: DriverProcess) -> None:
    """Ticks of an interval that clears itself are not lost."""
    code = "let n = 0; const t = setInterval(() => { console.log(++n); if (n === 3) clearInterval(t) }, 50); 0"
    assert text(node.execute(code)) == "1\n2\n3\n"


def test_an_endless_interval_does_not_hold_the_cell(node: DriverProcess) -> None:
    """The cell ends soon, the interval goes on, and the next cell does not wait for it."""
    started = time.monotonic()
    node.execute("globalThis.n = 0; setInterval(() => n++, 5); 0")
    assert time.monotonic() - started < 8
    started = time.monotonic()
    assert int(value(node.execute("n"))) > 20
    assert time.monotonic() - started < 5


def test_modules(node: DriverProcess) -> None:
    """Static and dynamic import, require, import.meta and require.main work, before and after a package is installed."""
    code = "import fs, {readFileSync as read} from 'fs';\nimport * as path from 'node:path';\nread === fs.readFileSync && path.sep"
    assert value(node.execute(code)) == "'/'"
    assert value(node.execute("(await import('node:os')).EOL === require('os').EOL")) == "true"
    assert value(node.execute("require.main === module && import.meta.dirname === __dirname")) == "true"
    assert error(node.execute("import x from 'just-made'"))["value"].startswith("Cannot find package 'just-made'")
    node.execute("const place = 'node_modules/just-made'; fs.mkdirSync(place, {recursive: true})")
    node.execute("fs.writeFileSync(place + '/index.js', 'exports.x = 42')")
    assert value(node.execute("import {x} from 'just-made'; x")) == "42"
    assert value(node.execute("require('just-made').x")) == "42"


@pytest.mark.parametrize("language", ["typescript", "javascript"])
def test_typescript(node: DriverProcess, language: str) -> None:
    """Types are erased in both languages; enums, generics, namespaces and decorators work; lines and columns are the user's."""
    code = "interface P { x: number }\nenum E { A, B }\nfunction id<T>(t: T): T { return t }\nconst p: P = {x: id<number>(E.B)};\np.x"
    assert value(node.execute(code, language=language)) == "1"
    decorated = "function dec(c: any) { c.tag = 7 }\n@dec class T { constructor(private a: number) {} }"
    code = decorated + "\nnamespace N { export const k = 1 }\n(T as any).tag + N.k"
    assert value(node.execute(code, language=language)) == "8"
    failing = "type A = {\n  a: string }\n"
    failing += "function boom(x: number): never { throw new TypeError('bad') }\nboom(1)"
    assert ":3:41)\n" in error(node.execute(failing, language=language))["traceback"]


def test_errors_show_the_users_lines_only(node: DriverProcess) -> None:
    """Name, message and a stack without frames of Node or of the driver."""
    failure = error(node.execute("function f() {\n  null.x\n}\nf()"))
    assert failure["name"] == "TypeError"
    assert failure["value"] == "Cannot read properties of null (reading 'x')"
    assert failure["traceback"].splitlines()[1:] == ["    at f (cell-1.js:2:8)", "    at cell-1.js:4:1"]
    assert error(node.execute("\nlet x = ;"))["traceback"].startswith("cell-2.js:2\nlet x = ;\n        ^\n")
    assert error(node.execute("throw 'text'"))["value"] == "text"


def test_errors_in_callbacks_belong_to_the_cell(node: DriverProcess) -> None:
    """A throw in a timer and an unhandled rejection are the run's error, and the kernel stays alive."""
    assert error(node.execute("setTimeout(() => { throw new Error('late') }, 20); 0"))["value"] == "late"
    assert error(node.execute("Promise.reject(new RangeError('no')); 0"))["name"] == "RangeError"
    assert value(node.execute("1 + 1")) == "2"


def test_exit_ends_the_cell_only(node: DriverProcess) -> None:
    """process.exit(0) ends the run quietly, another code is an error; exit handlers run, the state lives on."""
    messages = node.execute("const kept = 1; console.log('a'); process.exit(0); console.log('b')")
    assert text(messages) == "a\n"
    assert not [m for m in messages if m["op"] == "error"]
    failure = error(node.execute("setTimeout(() => process.exit(3), 10); setTimeout(() => console.log('never'), 100); 0"))
    assert (failure["name"], failure["value"]) == ("SystemExit", "exit code 3")
    assert value(node.execute("kept")) == "1"


def test_promises_are_awaited(node: DriverProcess) -> None:
    """A promise as the last value is shown settled; one that can never settle does not hang the cell."""
    assert value(node.execute("(async () => { await new Promise(r => setTimeout(r, 50)); return 5 })()")) == "5"
    assert value(node.execute("new Promise(() => {})")) == "Promise { <pending> }"
    assert "never settles" in error(node.execute("await new Promise(() => {})"))["value"]


ENDLESS = {
    "busy loop": "while (true) {}",
    "busy loop in a timer": "setTimeout(() => { while (true) {} }, 1); 0",
    "busy microtasks": "(async () => { for (;;) await null })(); 0",
    "printing loop": "for (;;) console.log('x')",
    "pending await": "await new Promise(r => setTimeout(r, 1e8))",
    "interval": "setInterval(() => {}, 10); 0",
    "blocking child": "require('child_process').execSync('sleep 1000')",
    "child that ignores SIGINT": "require('child_process').exec('trap \"\" INT; sleep 1000; sleep 1000'); 0",
}


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_interrupt_stops_it_and_keeps_the_state(node: DriverProcess, code: str) -> None:
    """Whatever runs is stopped, its children too, the error says so, and the next cell has the state."""
    node.execute("const kept = 42")
    assert error(interrupt_after(node, code))["name"] == "KeyboardInterrupt"
    assert value(node.execute("kept")) == "42"
    left = "require('child_process').execSync('ps -eo comm', {encoding: 'utf8'}).includes('sleep')"
    eventually(lambda: value(node.execute(left)) == "false")


def test_interrupt_of_a_waiting_cell_on_a_busy_host(node: DriverProcess) -> None:
    """The driver lives when it has no processor to take the interrupt in time: it is told to stop before the child's end wakes it."""
    with contextlib.ExitStack() as stack:
        for _ in range(2 * (os.cpu_count() or 1)):
            stack.callback(stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"])).kill)
        for _ in range(6):
            assert error(interrupt_after(node, ENDLESS["blocking child"], limit_s=30))["name"] == "KeyboardInterrupt"


def test_environment_is_data_and_of_one_run(node: DriverProcess) -> None:
    """Quotes, newlines and unicode arrive as they are, reach children, and are gone after the run, also after an error."""
    awkward = 'it\'s "q"\n`$x`\\ é😀'
    code = "console.log(process.env.AWKWARD + require('child_process').execSync('printenv AWKWARD')); throw 1"
    messages = node.execute(code, envs={"AWKWARD": awkward})
    assert text(messages) == f"{awkward}{awkward}\n\n"
    assert value(node.execute("'AWKWARD' in process.env")) == "false"


@pytest.mark.slow
def test_a_hundred_megabytes_arrive_whole(node: DriverProcess) -> None:
    """One string of 100 MB comes in bounded messages, nothing lost."""
    node.send({"op": "execute", "id": 1, "code": "process.stdout.write('0123456789'.repeat(1e7)); 0", "envs": {}})
    size = 0
    while (message := node.receive())["op"] != "done":
        assert len(message.get("text", "")) <= 65536
        size += len(message.get("text", ""))
    assert size == 100_000_000


def test_the_driver_ends_with_its_socket(node: DriverProcess) -> None:
    """When the agent is gone the driver ends, even out of a busy loop."""
    node.send({"op": "execute", "id": 1, "code": "while (true) {}", "envs": {}})
    time.sleep(0.5)
    node._socket.shutdown(socket.SHUT_RDWR)
    assert node.wait(5) == 256 - 9


def test_stdin_is_empty(node: DriverProcess) -> None:
    """Reading standard input ends at once."""
    assert text(node.execute("process.stdin.on('end', () => console.log('end')).resume(); 0")) == "end\n"


def test_the_first_run_can_be_interrupted_at_once(start: Start) -> None:
    """An interrupt that comes while the kernel's reader is still starting ends the first run."""
    node = start()
    node.send({"op": "execute", "id": 1, "code": "const kept = 1; for (;;);", "envs": {}})
    node.send({"op": "interrupt", "id": 1})
    messages = [node.receive(10) for _ in range(2)]
    assert [message.get("name") for message in messages] == ["KeyboardInterrupt", None]
    assert node.execute("kept")[0]["data"]["text/plain"] == "1"


def test_packed_compilers_are_what_the_packages_are(driver_root: DriverRoot, node_modules: Path, tmp_path: Path) -> None:
    """pack.js makes scripts of which V8 takes the code that was kept with them, and the driver uses them."""
    shutil.copytree(DRIVER_SOURCE / "node", tmp_path / "node")
    binds = {node_modules: "/.cloister/agent/node_modules", tmp_path / "node": f"{DRIVERS}/node"}
    packing = driver_root.spawn(["/usr/bin/node", f"{DRIVERS}/node/pack.js"], binds=binds)
    assert packing.wait(60) == 0, packing.raw_stderr.decode()
    node = driver_root.start(ARGV, binds={tmp_path / "node": f"{DRIVERS}/node"})  # without the packages
    assert node.execute("let n: number = 1; n", language="typescript")[0]["data"]["text/plain"] == "1"
    assert node.execute("namespace N { export const n = 2 } N.n", language="typescript")[0]["data"]["text/plain"] == "2"
    assert node.execute("import { sep } from 'path'; sep")[0]["data"]["text/plain"] == "'/'"
    for package in ("sucrase", "acorn", "typescript"):
        place = json.dumps(f"{DRIVERS}/node/{package}")
        read = f"const {{readFileSync: read}} = require('fs'); const place = {place};"
        script = "new (require('vm').Script)(read(place + '.packed.js', 'latin1'), {cachedData: read(place + '.cache')})"
        assert node.execute(f"{read} {script}.cachedDataRejected")[0]["data"]["text/plain"] == "false"
    other = driver_root.start(ARGV, binds={tmp_path / "node": f"{DRIVERS}/node"})
    other.execute(TAKEN)  # what a cell declares is nothing to the compilers
    for code in ("enum E { A }\nlet x: number = ;", "namespace N { export const n: number = 1 }\nconst k: = 1"):
        assert error(other.execute(code, language="typescript"))["traceback"].startswith(f"cell-{other._last_id}.ts:2")
    code = "namespace N { export const n: number = 1 } enum E { A = 4 } N.n + E.A"
    assert value(other.execute(code, language="typescript")) == "5"
