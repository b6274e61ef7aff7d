"""Compiles and runs Java programs with the plain JDK, inside a sandbox: ``[[file, code], …]`` on stdin, ``[[output, code], …]`` on stdout.

One JVM compiles them all with javac's own API; each runs in a JVM of its own, two at a time. The output of a program that does not compile
is javac's.
"""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMPILE_ALL = """
import java.io.*;
import java.nio.file.*;
import javax.tools.*;
public class CompileAll {
    public static void main(String[] args) throws IOException {
        for (String file : args) {
            ByteArrayOutputStream said = new ByteArrayOutputStream();
            String directory = Path.of(file).getParent().toString();
            int code = ToolProvider.getSystemJavaCompiler().run(null, said, said, "-g", "-proc:none", "-d", directory, file);
            Files.write(Path.of(directory, code == 0 ? "compiled" : "refused"), said.toByteArray());
        }
    }
}
"""
FLAGS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]


def run(source: Path) -> list[object]:
    """What a program that was compiled does."""
    place = source.parent
    if (place / "refused").exists():
        return [(place / "refused").read_text().replace(f"{place}/", ""), 1]
    package = [line.split()[1].rstrip(";") for line in source.read_text().splitlines() if line.startswith("package ")]
    name = ".".join([*package, source.stem])
    ended = subprocess.run(
        ["java", *FLAGS, "-cp", ".", name],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return [ended.stdout.decode(), ended.returncode]


def main() -> None:
    """All programs."""
    with tempfile.TemporaryDirectory() as directory:
        sources = []
        for number, (file, code) in enumerate(json.load(sys.stdin)):
            sources.append(Path(directory, str(number), file))
            sources[-1].parent.mkdir()
            sources[-1].write_text(code)
        tool = Path(directory, "CompileAll.java")
        tool.write_text(COMPILE_ALL)
        subprocess.run(["java", *FLAGS, str(tool), *map(str, sources)], check=True)
        with ThreadPoolExecutor(2) as pool:
            print(json.dumps(list(pool.map(run, sources))))


main()
