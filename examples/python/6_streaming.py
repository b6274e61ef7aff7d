"""Output and results arrive as they happen: `hello` is printed a second before `world`."""

import time

from e2b_code_interpreter import Sandbox

STREAM = """
print("hello")
import time
time.sleep(1)
print("world")
"""

with Sandbox.create() as sandbox:
    sandbox.run_code("1")  # so that the clock below measures the program, not the first start of the interpreter
    started = time.monotonic()

    def show(message):
        print(f"{time.monotonic() - started:.1f} s  {message.line}", end="", flush=True)

    sandbox.run_code(STREAM, on_stdout=show, on_stderr=show)

    sandbox.run_code("x = 1", on_result=lambda result: print("result:", result.text))
    sandbox.run_code("x + 1", on_result=lambda result: print("result:", result.text))
