// Output and results arrive as they happen: `hello` is printed a second before `world`.

import { Sandbox } from '@e2b/code-interpreter';

const stream = `
print("hello")
import time
time.sleep(1)
print("world")
`;

const sandbox = await Sandbox.create();
try {
  await sandbox.runCode('1'); // so that the clock below measures the program, not the first start of the interpreter
  const started = performance.now();
  const show = (message) => process.stdout.write(`${((performance.now() - started) / 1000).toFixed(1)} s  ${message.line}`);

  await sandbox.runCode(stream, { onStdout: show, onStderr: show });

  await sandbox.runCode('x = 1', { onResult: (result) => console.log('result:', result.text) });
  await sandbox.runCode('x + 1', { onResult: (result) => console.log('result:', result.text) });
} finally {
  await sandbox.kill();
}
