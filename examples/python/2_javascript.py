"""Run JavaScript in a sandbox: fetch a JSON document and print it."""

from e2b_code_interpreter import Sandbox

CODE = """
const https = require('https');

https.get('https://httpbin.org/json', (response) => {
  let data = '';
  response.on('data', (chunk) => {
    data += chunk;
  });
  response.on('end', () => {
    console.log(JSON.parse(data));
  });
}).on('error', (error) => {
  console.error('Error:', error.message);
});
"""

with Sandbox.create() as sandbox:
    execution = sandbox.run_code(
        CODE, language="javascript",
        on_stdout=lambda message: print(message.line, end="", flush=True),
        on_stderr=lambda message: print("stderr:", message.line, end="", flush=True),
    )

if execution.error:
    raise SystemExit(f"{execution.error.name}: {execution.error.value}\n{execution.error.traceback}")
