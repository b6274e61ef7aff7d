"""Run R in a sandbox: fetch a JSON document and print it."""

from e2b_code_interpreter import Sandbox

CODE = """
library(httr)

response <- GET("https://httpbin.org/json")
data <- content(response, "parsed")
print(data)
"""

with Sandbox.create() as sandbox:
    execution = sandbox.run_code(
        CODE, language="r",
        on_stdout=lambda message: print(message.line, end="", flush=True),
        on_stderr=lambda message: print("stderr:", message.line, end="", flush=True),
    )

if execution.error:
    raise SystemExit(f"{execution.error.name}: {execution.error.value}\n{execution.error.traceback}")
