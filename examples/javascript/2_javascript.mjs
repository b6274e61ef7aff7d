// Run JavaScript in a sandbox: fetch a JSON document and print it.

import { Sandbox } from '@e2b/code-interpreter';

const code = `
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
`;

const sandbox = await Sandbox.create();
try {
  const execution = await sandbox.runCode(code, {
    language: 'javascript',
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
