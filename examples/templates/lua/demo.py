"""Run Lua: state between runs, output as it is written, a value, an error, and a loop that is stopped."""

from e2b import TimeoutException
from e2b_code_interpreter import Sandbox

with Sandbox.create("lua") as sandbox:
    sandbox.run_code("greeting = 'Hello from ' .. _VERSION", language="lua")
    code = "for i = 1, 3 do print(greeting, i); os.execute('sleep 0.3') end"
    sandbox.run_code(code, language="lua", on_stdout=lambda message: print(message.line, end="", flush=True))
    print(sandbox.run_code("{answer = 6 * 7}", language="lua").text)

    failed = sandbox.run_code("local nothing\nprint(nothing.field)", language="lua")
    print("error:", failed.error.value)

    try:
        sandbox.run_code("while true do end", language="lua", timeout=1)
    except TimeoutException:
        print("stopped;", sandbox.run_code("greeting", language="lua").text)
