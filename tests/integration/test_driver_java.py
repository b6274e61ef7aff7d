"""The Java driver against its protocol, in the code-interpreter root."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

import cloister
from framework.driver_root import DRIVERS, DriverProcess, DriverRoot
from framework.waiting import eventually

__all__: list[str] = []
pytestmark = [pytest.mark.root, pytest.mark.templates]

PLACE = "/usr/local/lib/cloister/java"
SOURCE = Path(cloister.__file__).parent / "agent" / "drivers"
LEAN = ["-Xmx512m", "-Xms16m", "-XX:NewSize=6m", "-XX:MetaspaceSize=64m", "-XX:MinHeapFreeRatio=10", "-XX:MaxHeapFreeRatio=30"]
FLAGS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", *LEAN]
ARGV = ["/usr/bin/java", *FLAGS, f"-XX:SharedArchiveFile={PLACE}/kernel.jsa", "-jar", f"{PLACE}/kernel.jar"]
Messages = list[dict[str, Any]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this checkout's driver is built, once, by the first test."""
    return tmp_path_factory.mktemp("java")


@pytest.fixture
def java(driver_root: DriverRoot, built: Path) -> DriverProcess:
    """A running kernel."""
    binds = {built: PLACE}
    if not (built / "kernel.jsa").exists():
        build = driver_root.spawn(["/bin/sh", f"{DRIVERS}/java/build.sh", PLACE], binds={SOURCE: DRIVERS, **binds})
        assert build.wait(120) == 0, build.raw_stderr.decode()
    return driver_root.start(ARGV, env={"FROM_SANDBOX": "yes"}, binds=binds)


def text(messages: Messages, op: str = "stdout") -> str:
    """All text of one stream."""
    return "".join(message["text"] for message in messages if message["op"] == op)


def value(messages: Messages) -> Any:
    """The text of the one main result, or None."""
    results = [message for message in messages if message["op"] == "result"]
    assert len(results) <= 1, results
    return results[0]["data"]["text/plain"] if results else None


def error(messages: Messages) -> dict[str, Any]:
    """The one error of a run."""
    errors = [message for message in messages if message["op"] == "error"]
    assert len(errors) == 1, messages
    return errors[0]


def interrupt_after(kernel: DriverProcess, code: str, delay_s: float = 0.5) -> Messages:
    """Run code and interrupt it by message."""
    threading.Timer(delay_s, lambda: kernel.send({"op": "interrupt", "id": kernel._last_id})).start()
    return kernel.execute(code, timeout_s=20)


def test_snippets_keep_state(java: DriverProcess) -> None:
    """Variables, methods and imports of one cell are there in the next; several snippets make one cell."""
    java.execute("int x = 5;\nint twice(int n) { return n * 2; }\nimport java.time.*;")
    assert value(java.execute("twice(x)")) == "10"
    assert value(java.execute("int x = 6; Duration.ofMinutes(x)")) == "PT6M"
    assert value(java.execute("new int[][] {{1, 2}, {3}}")) == "[[1, 2], [3]]"
    assert value(java.execute('String s = "q\\"é"; s')) == 'q"é'


def test_statements_have_no_result(java: DriverProcess) -> None:
    """A call that ends with a semicolon, a declaration and a comment show nothing."""
    assert value(java.execute("var list = new ArrayList<Integer>();\nlist.add(3);")) is None
    assert value(java.execute("// nothing")) is None
    assert value(java.execute("list")) == "[3]"


def test_a_whole_program_runs(java: DriverProcess) -> None:
    """A pasted class with main runs with empty args, its package line and helper types included; again after a change."""
    program = """package com.example.app;

import java.util.*;

public class Main {
    enum Color { RED }
    public static void main(String[] args) {
        System.out.println(new Helper().greet("world") + " " + args.length + " " + Color.RED);
    }
}

class Helper {
    String greet(String name) { return "hello " + name; }
}
"""
    assert text(java.execute(program)) == "hello world 0 RED\n"
    assert text(java.execute(program.replace("hello", "bye"))) == "bye world 0 RED\n"
    assert text(java.execute('static void main(String[] args) { System.out.println("bare"); }')) == "bare\n"


UNIT = """package com.example;
sealed interface Shape permits Circle { }
record Circle(double radius) implements Shape { Circle { if (radius < 0) throw new IllegalArgumentException("negative"); } }
enum Op { ADD { int of(int a, int b) { return a + b; } }; abstract int of(int a, int b); }
class Cat extends Animal { Cat(String name) { super(name); } }
class Animal { final String name; Animal(String name) { this.name = name; } }
public class Main {
  static int calls;
  static int add(int a, int b) { calls++; return Op.ADD.of(a, b); }
  public static void main(String[] args) {
    System.out.println(new Circle(1) + " " + add(1, 2) + " " + new Cat("Tom").name + " " + new Animal("x").getClass().getName());
    throw new IllegalStateException("outer", new RuntimeException("inner"));
  }
}
"""


def test_a_programs_classes_are_one_unit_and_later_cells_have_them(java: DriverProcess) -> None:
    """Declarations in any order, with their own names in output and traces; later cells reach all but private members, and their state."""
    messages = java.execute(UNIT)
    assert text(messages) == "Circle[radius=1.0] 3 Tom com.example.Animal\n"
    trace = "java.lang.IllegalStateException: outer\n\tat com.example.Main.main(Main.java:12)\n"
    trace += "Caused by: java.lang.RuntimeException: inner\n\t... 1 more"
    assert error(messages)["traceback"] == trace
    assert value(java.execute('Main.add(2, 3) + Main.calls + new Cat("Kit").name.length()')) == "10"
    assert value(java.execute("import com.example.*;\nimport com.example.Op;\nOp.ADD.of(1, 1)")) == "2"
    assert text(java.execute(UNIT.replace("calls++;", "calls += 5;"))).startswith("Circle[radius=1.0] 3 ")
    assert value(java.execute("Main.calls")) == "5"


def test_types_without_main_are_one_unit(java: DriverProcess) -> None:
    """A class above its superclass, types beside statements, and types that use variables of the session."""
    assert [m["op"] for m in java.execute("class B extends A { B() { super(3); } }\nclass A { int n; A(int n) { this.n = n; } }")] == [
        "done"
    ]
    assert value(java.execute("new B().n + new B().getClass().getName()")) == "3B"
    code = "var e = E.X;\nrecord R(int n) { R { n++; } }\nenum E { X { int v() { return 7; } }; abstract int v(); }\nnew R(1).n() + e.v()"
    assert value(java.execute(code)) == "9"
    java.execute("int base = 3;\nint twice(int n) { return 2 * n; }")
    assert value(java.execute("class Uses { int f() { return twice(base); } }\nnew Uses().f()")) == "6"
    java.execute("class UsesToo { int f() { return twice(base); } }")
    assert value(java.execute("base = 4; new UsesToo().f()")) == "8"


def test_a_type_that_is_declared_again_is_new_everywhere(java: DriverProcess) -> None:
    """Later cells, methods and classes that use it have the new one; variables of the old type are null."""
    java.execute("class A { int v = 1; }")
    java.execute("class User { int get() { return new A().v; } }\n")
    java.execute("int viaMethod() { return new A().v; }\nA kept = new A();")
    java.execute("class A { int v = 2; }")
    assert value(java.execute("new User().get() + viaMethod() + new A().v")) == "6"
    assert value(java.execute('"" + kept')) == "null"
    java.execute("class Twice { int f() { return 1; } }\nclass Other { int g() { return new Twice().f(); } }")
    assert value(java.execute("class Twice { int f() { return 2; } }\nnew Twice().f() + new Other().g()")) == "4"


def test_names_that_collide_never_poison_the_context(java: DriverProcess) -> None:
    """The latest import or declaration of a name wins; a program's imports that would change a name stay its own."""
    assert (
        text(
            java.execute(
                "import java.awt.*;\nimport java.util.List;\npublic class W { public static void main(String[] a) { "
                "System.out.println(List.of(new Point(1, 2).x)); } }"
            )
        )
        == "[1]\n"
    )
    assert value(java.execute("List<Integer> some = List.of(1); some")) == "[1]"
    assert value(java.execute("import java.sql.*; new Date(0L).getClass().getName()")) == "java.sql.Date"
    assert value(java.execute("import java.util.*; new Date(0L).getClass().getName()")) == "java.util.Date"
    java.execute("class Date { }")
    assert value(java.execute("new Date().getClass().getName()")) == "Date"
    assert error(java.execute('class Date { int x = "no"; }'))["name"] == "CompilationError"
    assert value(java.execute("new Date().getClass().getName()")) == "Date"
    assert value(java.execute("import java.util.Date; new Date(0L).getTime()")) == "0"


def test_what_a_program_changes_of_the_jvm_is_put_back(java: DriverProcess) -> None:
    """Streams, locale and thread numbers; shutdown hooks run at its end, finally blocks after System.exit print nothing."""
    code = """public class P { public static void main(String[] args) throws Exception {
      new java.util.Scanner(System.in).close();
      java.util.Locale.setDefault(java.util.Locale.GERMANY);
      Thread thread = new Thread(() -> System.out.println(Thread.currentThread().getName()));
      thread.start();
      thread.join();
      Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook")));
      System.setErr(System.out);
      try { System.exit(2); } finally { System.out.println("not printed"); }
    } }"""
    for _ in range(2):
        messages = java.execute(code)
        assert text(messages) == "Thread-0\nhook\n"
        assert error(messages)["value"] == "exit code 2"
    messages = java.execute('System.err.print(String.format("%.1f", 1.5)); System.in.read()')
    assert (text(messages, "stderr"), value(messages)) == ("1.5", "-1")


def test_a_program_that_reflects_keeps_its_modifiers(java: DriverProcess) -> None:
    """Members have the modifiers that they were written with, and later cells use a copy of the classes."""
    code = "class M { int plain; static int two() { return 2; } public static void main(String[] a) throws Exception {"
    assert text(java.execute(code + ' System.out.println(M.class.getDeclaredField("plain")); } }')) == "int M.plain\n"
    assert value(java.execute("M.two()")) == "2"


def test_childrens_output_is_between_the_lines_around_it(java: DriverProcess) -> None:
    """Before a child gets the kernel's streams, the agent has taken what was printed; nothing is asked for when nothing was printed."""
    child = 'new ProcessBuilder("echo", "b").inheritIO().start().waitFor();'
    code = f'{child.replace("echo", "true")}\nSystem.out.println("a");\n{child}\nSystem.out.println("c");'
    messages = java.execute(code)
    assert [message.get("text", "ack" in message) for message in messages] == ["a\n", True, "c\n", False]
    assert java.raw_stdout == b"b\n"


def test_main_runs_only_where_it_is_declared(java: DriverProcess) -> None:
    """A later cell does not run it again, and a cell that calls main itself runs it once."""
    code = 'class P { public static void main(String[] a) { System.out.println("run"); } }'
    assert text(java.execute(code + "\nP.main(null);")) == "run\n"
    assert text(java.execute("1 + 1")) == ""


def test_exit_ends_the_cell_only(java: DriverProcess) -> None:
    """System.exit(0) ends the run quietly, another code is an error; the kernel and its state live on."""
    java.execute("int kept = 1;")
    messages = java.execute('System.out.println("a"); System.exit(0); System.out.println("b");')
    assert text(messages) == "a\n"
    assert not [m for m in messages if m["op"] == "error"]
    assert error(java.execute("public class Q { public static void main(String[] a) { System.exit(3); } }"))["value"] == "exit code 3"
    assert value(java.execute("kept")) == "1"


def test_output_is_streamed(java: DriverProcess) -> None:
    """One print is one message, at once; bytes and printf and System.err work."""
    messages, seen_at = [], []
    for message in java.stream('System.out.println("one");\nThread.sleep(1500);\nSystem.out.printf("%d%n", 2); System.err.print("e");'):
        messages.append((message["op"], message.get("text")))
        seen_at.append(time.monotonic())
    assert messages == [("stdout", "one\n"), ("stdout", "2\n"), ("stderr", "e"), ("done", None)]
    assert seen_at[1] - seen_at[0] > 0.75
    assert text(java.execute("System.out.write(new byte[] {(byte) 0xe2, (byte) 0x82}); System.out.write(0xac);")) == "€"


def test_compile_errors_have_line_and_mark(java: DriverProcess) -> None:
    """The user's line and column, the line itself and a mark below."""
    failure = error(java.execute('int a = 1;\n\nint b = "no";'))
    assert failure["name"] == "CompilationError"
    assert failure["traceback"].startswith('cell-1:3:9: error:\nint b = "no";\n        ^\n')
    failure = error(java.execute("public class Main {\n  public static void main(String[] a) {\n    new Missing();\n  }\n}"))
    assert failure["value"] == "cannot find symbol: class Missing"
    assert failure["traceback"].startswith(
        "Main.java:3: error: cannot find symbol\n    new Missing();\n        ^\n  symbol:   class Missing\n"
    )
    assert failure["traceback"].endswith("\n1 error")


def test_exceptions_have_the_users_lines(java: DriverProcess) -> None:
    """Class, message and frames of the user's own, in uncaught exceptions, printed traces and other threads."""
    failure = error(java.execute('\nclass A {\n  void boom() {\n    throw new IllegalStateException("bad");\n  }\n}\nnew A().boom();'))
    assert failure["name"] == "java.lang.IllegalStateException"
    assert failure["value"] == "bad"
    assert failure["traceback"] == "java.lang.IllegalStateException: bad\n\tat A.boom(cell-1:4)\n\tat <cell>(cell-1:7)"
    printed = text(java.execute("try {\n  new A().boom();\n} catch (Exception e) {\n  e.printStackTrace();\n}"), "stderr")
    assert printed == "java.lang.IllegalStateException: bad\n\tat A.boom(cell-1:4)\n\tat <cell>(cell-2:2)\n"
    thread = 'new Thread(() -> {\n  throw new RuntimeException("t");\n}).start();'
    assert "(cell-3:2)" in text(java.execute(thread), "stderr")
    assert error(java.execute('class Own extends Exception { Own() { super("mine"); } }\nthrow new Own();'))["name"] == "Own"


def test_threads_that_a_cell_started_finish_first(java: DriverProcess) -> None:
    """Output of threads and of pool tasks belongs to the run; idle pools do not hold it."""
    code = (
        'var pool = Executors.newFixedThreadPool(2);\npool.submit(() -> { Thread.sleep(200); System.out.println("pool"); return 1; });\n'
        'new Thread(() -> { try { Thread.sleep(100); } catch (InterruptedException e) { }\n  System.out.println("thread"); }).start();'
    )
    assert sorted(text(java.execute(code)).split()) == ["pool", "thread"]


ENDLESS = {
    "busy loop": "while (true);",
    "busy loop in a method": "long spin() { long n = 0; for (;;) { n++; } }\nspin()",
    "swallowed": "while (true) { try { Thread.sleep(1000); } catch (Throwable t) { } }",
    "sleep": "Thread.sleep(1_000_000)",
    "child": 'new ProcessBuilder("sleep", "1000").start().waitFor()',
    "stream": "Stream.iterate(1, i -> i + 1).forEach(i -> { })",
    "parallel": "IntStream.range(0, 4).parallel().forEach(i -> { while (true); })",
    "other thread": "new Thread(() -> { while (true); }).start();",
    "socket": "new ServerSocket(0).accept()",
    "printing": 'while (true) System.out.println("x");',
    "program": "public class Endless { public static void main(String[] a) { while (true) { try { spin(); } catch (Throwable t) { } } } "
    "static void spin() { for (;;); } }",
}


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_interrupt_stops_it_and_keeps_the_state(java: DriverProcess, code: str) -> None:
    """Whatever runs is stopped, its children too, the error says so, and the next cell has the state."""
    java.execute("int kept = 42;")
    assert error(interrupt_after(java, code))["name"] == "KeyboardInterrupt"
    assert value(java.execute("kept")) == "42"
    eventually(lambda: value(java.execute("ProcessHandle.current().descendants().count()")) == "0")


def test_environment_is_data_and_of_one_run(java: DriverProcess) -> None:
    """getenv, getProperty and children see the run's variables as they are; afterwards they are gone."""
    awkward = 'it\'s "q"\n`$x`\\ é😀'
    code = 'System.out.println(System.getenv("AWKWARD")); System.out.println(System.getProperty("AWKWARD"));'
    assert text(java.execute(code, envs={"AWKWARD": awkward})) == f"{awkward}\n{awkward}\n"
    child = 'new String(new ProcessBuilder("printenv", "AWKWARD").start().getInputStream().readAllBytes())'
    assert value(java.execute(child, envs={"AWKWARD": awkward})) == f"{awkward}\n"
    assert value(java.execute('System.getenv("AWKWARD") + System.getProperty("AWKWARD")')) == "nullnull"
    assert value(java.execute('System.getenv("FROM_SANDBOX") + System.getProperty("FROM_SANDBOX")')) == "yesyes"


def test_out_of_heap_is_an_error(java: DriverProcess) -> None:
    """Running out of heap is an exception of the cell; the kernel lives on."""
    assert error(java.execute("byte[] big = new byte[1_500_000_000];"))["name"] == "java.lang.OutOfMemoryError"
    assert value(java.execute("1 + 1")) == "2"


@pytest.mark.slow
def test_a_hundred_megabytes_arrive_whole(java: DriverProcess) -> None:
    """One million lines and one string of 100 MB, nothing lost, messages bounded."""
    java.send({"op": "execute", "id": 1, "code": 'System.out.print("0123456789".repeat(10_000_000));', "envs": {}})
    size = 0
    while (message := java.receive())["op"] != "done":
        assert len(message.get("text", "")) <= 65536
        size += len(message.get("text", ""))
    assert size == 100_000_000


def test_stdin_is_empty(java: DriverProcess) -> None:
    """Reading standard input ends at once."""
    assert value(java.execute("System.in.read()")) == "-1"


USUAL = {
    "java.io": "File",
    "java.math": "BigInteger",
    "java.net": "URI",
    "java.nio.file": "Path",
    "java.util": "List",
    "java.util.concurrent": "TimeUnit",
    "java.util.function": "Supplier",
    "java.util.prefs": "Preferences",
    "java.util.regex": "Pattern",
    "java.util.stream": "Stream",
}


def test_the_usual_packages_are_imported_and_can_be_imported_again(java: DriverProcess) -> None:
    """The initial imports of a context behave like imports of a cell."""
    for package, name in USUAL.items():
        assert value(java.execute(f"{name}.class.getName()")) == f"{package}.{name}"
        assert [message["op"] for message in java.execute(f"import {package}.*;")] == ["done"]
        assert value(java.execute(f"{name}.class.getName()")) == f"{package}.{name}"
    java.execute("import java.sql.Date;")
    assert value(java.execute("Date.class.getName()")) == "java.sql.Date"
    java.execute("class List { }")
    assert error(java.execute("List.of(1)"))["name"] == "CompilationError"
