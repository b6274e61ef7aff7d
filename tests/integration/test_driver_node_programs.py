"""The Node driver with cells as people and models write them: names declared again, modules, standard input, errors, the cell's end."""

from __future__ import annotations

import itertools
import time

import pytest

from framework.driver_root import DriverProcess
from framework.node_driver import TAKEN, Messages, error, text, value

pytestmark = [pytest.mark.root, pytest.mark.templates]

DECLARATIONS = {
    "var": "var it = {0};",
    "let": "let it = {0};",
    "const": "const it = {0};",
    "class": "class it {{ static toString() {{ return '{0}' }} }}",
    "function": "function it() {{}} it.toString = () => '{0}';",
    "pattern": "const {{a: it, b: [more]}} = {{a: {0}, b: [0]}};",
    "import": "import {{sep as it}} from 'path'; console.log('{0}');",
    "loop": "for (var it = {0}; it < {0}; it++);",
}


def test_a_name_may_be_declared_again_by_any_kind(node: DriverProcess) -> None:
    """Each kind of declaration may follow each other, in another cell; the code of the cell and later cells see the newest."""
    kinds = [kind for pair in itertools.product(DECLARATIONS, repeat=2) for kind in pair]
    for number, kind in enumerate(kinds):
        code = DECLARATIONS[kind].format(number)
        shown = f"{code} console.log(String(it) === '/' ? {number} : `${{it}}`)"
        messages = node.execute(shown)
        assert str(number) in text(messages).split(), (kinds[max(0, number - 1) : number + 1], messages)
        messages = node.execute(f"`${{it}}` === '/' ? '{number}' : `${{it}}`")
        assert value(messages) == f"'{number}'", (kinds[max(0, number - 1) : number + 1], messages)


def test_redeclared_functions_and_classes_are_what_they_say(node: DriverProcess) -> None:
    """A name taken over from a const can be assigned to; functions keep hoisting, name and recursion, classes their name."""
    node.execute("const f = 1, g = 1, C = 2, n = 3, k = 4")
    code = "const early = f(2); let n = 0; n++; function f(i) { return i ? f(i - 1) : f.name } class C {} let g = () => 0; n += 1"
    node.execute(f"{code}; var [k] = [7]")
    assert value(node.execute("[early, f(1), n, C.name, g.name, k, (({f}) => f)({f: 5}), {n}.n].join()")) == "'f,f,2,C,g,7,5,2'"
    node.execute("const {n, f: {k}} = {n: 8, f: {k: 9}}")
    assert value(node.execute("n + k")) == "17"


def test_within_one_cell_a_name_is_declared_once(node: DriverProcess) -> None:
    """Two declarations in one cell are the SyntaxError that they are in a file."""
    for code in ("let q = 1;\nlet q = 2", "const q = 1;\nfunction q() {}", "class q {}\nvar q"):
        failure = error(node.execute(code))
        assert failure["value"] == "Identifier 'q' has already been declared"
        assert failure["traceback"].startswith(f"cell-{failure['traceback'].split('-')[1].split('.')[0]}.js:2\n")


def test_typescript_declarations_are_made_anew(node: DriverProcess) -> None:
    """Types, enums, namespaces, abstract and decorated classes may be declared again; nothing of an earlier one is left in them."""
    first = (
        "type T = number; interface I { a: T } enum E { A, B } namespace N { export const a = 1 } abstract class S<X> { abstract f(): X }"
    )
    second = "type T = string; interface I { b: T } enum E { C } namespace N { export const b = 2 } class S<X> { f(x: X): X { return x } }"
    shown = "console.log(Object.keys(E).join(), JSON.stringify(N), typeof S.prototype)"
    for code, expected in [
        (first, '0,1,A,B {"a":1} object'),
        (second, '0,C {"b":2} object'),
        ("const E = 1, N = 2; let S", ""),
        (first, '0,1,A,B {"a":1} object'),
    ]:
        assert text(node.execute(f"{code}\n{shown if expected else ''}", language="typescript")).strip() == expected
    for legacy in (True, False):
        second_parameter = "key: string, d: PropertyDescriptor" if legacy else "context: ClassMethodDecoratorContext"
        seen = "key" if legacy else "context.name"
        code = f"function log(target: any, {second_parameter}): any {{ console.log({seen}) }}\nclass A {{ @log run() {{}} }}"
        assert text(node.execute(code, language="typescript")) == "run\n"


def test_standard_input_ends_in_every_cell(node: DriverProcess) -> None:
    """Each way to read standard input sees its end, in the first cell and in those after it."""
    readers = [
        "process.stdin.on('data', d => console.log('data', d)).on('end', () => console.log('end'))",
        "process.stdin.on('readable', () => { while (process.stdin.read() !== null); }); process.stdin.on('end', () => console.log('end'))",
        "for await (const line of require('readline').createInterface({input: process.stdin})) console.log(line); console.log('end')",
        "for await (const piece of process.stdin) console.log(piece); console.log('end')",
        "require('readline').createInterface({input: process.stdin}).on('close', () => console.log('end')).question('', () => 0)",
        "console.log(require('fs').readFileSync(0, 'utf8') + require('fs').readFileSync('/proc/self/fd/0', 'utf8') + 'end')",
        "process.stdin.resume(); process.stdin.pipe(new (require('stream').PassThrough)()).on('finish', () => console.log('end'))",
    ]
    for reader in readers * 2:
        assert text(node.execute(f"{reader}; 0", timeout_s=10)) == "end\n", reader


def test_modules_as_files_have_them(node: DriverProcess) -> None:
    """Import attributes of both spellings, hoisted imports, exports of all kinds, import.meta and require.resolve."""
    node.execute(
        "require('fs').writeFileSync('data.json', '{\"a\": 1}'); require('fs').writeFileSync('side.cjs', 'console.log(\"loaded\")')"
    )
    for language, keyword in itertools.product(("javascript", "typescript"), ("with", "assert")):
        static = f"console.log(data.a, sep);\nimport data from './data.json' {keyword} {{type: 'json'}}; import {{sep}} from 'node:path';"
        dynamic = f"console.log((await import('./data.json', {{{keyword}: {{type: 'json'}}}})).default.a)"
        assert text(node.execute(f"{static}\n{dynamic}", language=language)) == "1 /\n1\n"
    exports = "export const a = 1; export function f() {} export default class K {} export { a as b }; export * from 'os';"
    exports += " export * as o from './side.cjs'"
    assert text(node.execute(f"{exports}; console.log(a, f.name, K.name)")) == "loaded\n1 f K\n"
    assert text(node.execute("export default () => 5")) == ""
    here = "[import.meta.url, import.meta.filename, import.meta.resolve('./data.json'), require.resolve('./data.json')]"
    here += ".map(p => p.replace(process.cwd(), '.'))"
    assert value(node.execute(f"{here}.join(' ')")) == "'file://./cell.js ./cell.js file://./data.json ./data.json'"


@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_a_return_at_the_top_level_ends_the_cell(node: DriverProcess, language: str) -> None:
    """As in a CommonJS file: catch does not see it, finally does, timers go on; its value is the cell's."""
    code = "setTimeout(() => console.log('timer'), 10);\n"
    code += "for (const x of [1, 2]) { try { if (x) return {x} } catch { console.log('no') } finally { console.log('finally') } }"
    messages = node.execute(f"{code}\nconsole.log('never')", language=language)
    assert text(messages) == "finally\ntimer\n"
    assert value(messages) == "{ x: 1 }"
    assert text(node.execute("console.log('a'); return; console.log('b')", language=language)) == "a\n"


def test_syntax_errors_point_at_the_users_text(node: DriverProcess) -> None:
    """The line, the source and a mark as Node prints them, also behind rewritten code; tsc's words for TypeScript."""
    for code in (
        "let ok = 1;\n\tlet x = ;",
        "import {sep} from 'path'; let ok = 2;\n\tlet x = ;",
        "export const e = await 1;\n\tlet x = ;",
    ):
        failure = error(node.execute(code))
        assert failure["traceback"].split("\n")[:3] == [f"cell-{node._last_id}.js:2", "\tlet x = ;", "\t        ^"]
        assert failure["value"] == "Unexpected token ';'"
    failure = error(node.execute("const ok: number = 1;\nlet x: = 2", language="typescript"))
    assert (failure["value"], failure["traceback"].split("\n")[:3]) == (
        "Type expected.",
        [f"cell-{node._last_id}.ts:2", "let x: = 2", "       ^"],
    )
    for code in (
        "new Function('let x = ;')",
        "eval('let x = ;')",
        "throw new SyntaxError('own')",
        "JSON.parse('{')",
        "await import('data:text/javascript,let x = ;')",
    ):
        messages = node.execute(f"console.log('once');\n{code}")
        assert text(messages) == "once\n"
        assert error(messages)["name"] == "SyntaxError"


def test_stacks_end_where_the_cell_begins(node: DriverProcess) -> None:
    """No frame of the driver in any stack that user code can see; those of Node's own that a file would show are there."""
    code = """const { execFileSync } = require('child_process'), fs = require('fs');
    function f() { return new Error('x').stack } console.log(f()); console.trace('t');
    process.on('warning', w => console.log(w.stack));
    const seen = [], write = () => fs.writeSync(1, {}), run = () => execFileSync('/none');
    for (const go of [() => fs.readFileSync('/none'), () => fs.openSync('/none'), write, run]) try { go() } catch (e) { seen.push(e.stack) }
    console.log(seen.join('\\n'));
    new Promise((_, no) => no(new Error('p'))).catch(e => console.log(e.stack));
    async function g() { await null; throw new Error('late', {cause: new TypeError('why')}) }
    await g()"""
    messages = node.execute(code)
    shown = text(messages) + text(messages, "stderr") + error(messages)["traceback"]
    assert "/drivers/" not in shown
    assert "node:inspector" not in shown
    assert "    at Object.readFileSync (node:fs:" in shown
    assert "    at f (cell-1.js:2:" in shown
    assert "    at async cell-1.js:9:" in error(messages)["traceback"]
    assert "[cause]: TypeError: why" in error(messages)["traceback"]
    typed = "interface A {}\nenum E { A }\n"
    typed += "let a: number = 1; function h(): never { throw Object.assign(new Error('typed'), {code: 7}) }\n"
    typed += "console.log(new Error('here').stack); h()"
    messages = node.execute(typed, language="typescript")
    assert text(messages).split("\n")[1] == "    at cell-2.ts:4:13"
    assert error(messages)["traceback"].split("\n")[1:] == ["    at h (cell-2.ts:3:62)", "    at cell-2.ts:4:39 {", "  code: 7", "}"]


def test_handlers_of_the_cell_get_what_it_throws(node: DriverProcess) -> None:
    """Handlers of uncaughtException and unhandledRejection take the errors of their cell's own code too; those of later cells are shown."""
    messages = node.execute("process.on('uncaughtException', (e, from) => console.log(e.message, from)); throw new Error('mine')")
    assert (text(messages), [m for m in messages if m["op"] == "error"]) == ("mine uncaughtException\n", [])
    assert error(node.execute("throw new Error('shown')"))["value"] == "shown"
    messages = node.execute(
        "process.on('unhandledRejection', e => console.log(e.message)); (async () => { throw new Error('promised') })()"
    )
    assert text(messages) == "promised\n"


def test_exit_in_a_promise_callback_keeps_the_kernel(node: DriverProcess) -> None:
    """Also when async hooks that follow promises are on, of which the exit cuts one off."""
    node.execute(
        "const { AsyncLocalStorage } = require('async_hooks'); new AsyncLocalStorage().run(1, async () => { await null }); const kept = 1"
    )
    for _ in range(3):
        assert (
            error(node.execute("(async () => { await null; throw new Error() })().catch(() => process.exit(1))"))["value"] == "exit code 1"
        )
        assert error(interrupt_soon(node, "(async () => { await null; for (;;); })(); 0"))["name"] == "KeyboardInterrupt"
    assert value(node.execute("kept")) == "1"


def interrupt_soon(node: DriverProcess, code: str) -> Messages:
    """Run code that says nothing by itself; it is interrupted when the kernel has it."""
    messages = []
    for message in node.stream(f"console.log('on'); {code}", timeout_s=10):
        messages.append(message)
        if message.get("text") == "on\n":
            node.send({"op": "interrupt", "id": node._last_id})
    return messages


def test_names_of_globals_belong_to_the_user(node: DriverProcess) -> None:
    """Cells may declare names that the driver uses itself."""
    node.execute(TAKEN)
    node.execute("import { setInterval } from 'node:timers/promises'; function Function() {} var WeakMap = 1")
    assert error(node.execute("const a = 1; null.x"))["value"] == "Cannot read properties of null (reading 'x')"
    assert error(node.execute("globalThis.process.exitCode = 2; display({a: [1]})"))["value"] == "exit code 2"


def test_an_exit_code_is_the_cells_error(node: DriverProcess) -> None:
    """process.exitCode counts at the end of the cell as process.exit does, and is forgotten then."""
    messages = node.execute("process.exitCode = 3; setTimeout(() => console.log('after'), 5); 0")
    assert (text(messages), error(messages)["value"]) == ("after\n", "exit code 3")
    assert value(node.execute("process.exitCode")) is None


def elapsed(node: DriverProcess, code: str) -> tuple[float, Messages]:
    """How long a cell takes, and its messages."""
    started = time.monotonic()
    messages = node.execute(code)
    return time.monotonic() - started, messages


def test_what_stays_does_not_hold_the_cell(node: DriverProcess) -> None:
    """A child that listens, an idle connection and a watcher are let go; what they say later is text of the next run."""
    node.execute("const {spawn} = require('child_process'), net = require('net'), fs = require('fs')")
    server = "require('net').createServer(s => s.on('data', d => s.write('echo ' + d))).listen(8140, () => console.log('up'))"
    seconds, messages = elapsed(node, f'spawn(process.execPath, ["-e", `{server}`]).stdout.on("data", d => console.log(`child ${{d}}`)); 0')
    assert seconds < 15
    assert "child up" in text(messages)
    seconds, messages = elapsed(node, "net.connect(8140).on('data', d => console.log(`${d}`)).write('hello'); fs.watch('.', () => {}); 0")
    assert seconds < 8
    assert text(messages) == "echo hello\n"
    node.execute("setInterval(() => fs.existsSync('go') && console.log('later'), 5); 0")
    messages = node.execute("fs.writeFileSync('go', ''); await new Promise(done => setTimeout(done, 200))")
    assert "later\n" in text(messages)
    assert {m["id"] for m in messages} == {node._last_id}


def test_what_ends_by_itself_is_waited_for(node: DriverProcess) -> None:
    """An interval that clears itself, a slow HTTP answer and a silent command that ends finish with all their output."""
    code = """const http = require('http'); let n = 0;
    const t = setInterval(() => { if (++n === 4) { clearInterval(t); console.log('ticks') } }, 500);
    const slow = http.createServer((q, r) => setTimeout(() => r.end('slow'), 1800)).listen(8141);
    http.get('http://127.0.0.1:8141', r => r.on('data', console.log.bind(0, '%s')));
    fetch('http://127.0.0.1:8141').then(r => r.text()).then(console.log).finally(() => slow.close());
    require('child_process').exec('sleep 1.7; echo child', (e, out) => console.log(out.trim())); 0"""
    assert sorted(text(node.execute(code)).split()) == ["child", "slow", "slow", "ticks"]


def test_results_in_the_middle_wait_for_the_agent(node: DriverProcess) -> None:
    """display() asks for an answer, and so does the last message before something else writes; an interrupt ends the wait."""
    code = "console.log('b'); display({a: 1}, 'two'); console.log('c'); require('fs').writeSync(1, 'raw\\n');"
    code += "console.log('d'); require('child_process').execSync('true')"
    messages = node.execute(code)
    assert [(m["op"], "ack" in m) for m in messages if m["op"] != "done"] == [
        ("stdout", False), ("result", True), ("result", True), ("stdout", False), ("ready", True), ("stdout", False), ("ready", True),
        ("result", False),
    ]  # fmt: skip
    assert messages[1]["data"] == {"text/plain": "{ a: 1 }", "application/json": {"a": 1}}
    assert messages[1]["main"] is False
    node._last_id += 1
    node.send({"op": "execute", "id": node._last_id, "code": "const kept = 1; display(1)", "envs": {}})
    buffered = node._socket.recv(65536)  # and no answer
    assert b'"ack"' in buffered
    node.send({"op": "interrupt", "id": node._last_id})
    assert [node.receive(10).get("name") for _ in range(2)] == ["KeyboardInterrupt", None]
    assert value(node.execute("kept")) == "1"
