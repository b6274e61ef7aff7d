// Run Bash in a sandbox: fetch a JSON document and print it.

import { Sandbox } from '@e2b/code-interpreter';

const code = `
curl -s https://httpbin.org/json
`;

const sandbox = await Sandbox.create();
try {
  const execution = await sandbox.runCode(code, {
    language: 'bash',
    onStdout: (message) => process.stdout.write(message.line),
    onStderr: (message) => process.stderr.write(`stderr: ${message.line}`),
  });
  if (execution.error) {
    console.error(`${execution.error.name}: ${execution.error.value}\n${execution.error.traceback}`);
    process.exitCode = 1;
  }
} finally {
  await sandbox.kill();
}
