// Templates with a start command: `Sandbox.create()` returns when the ready command has passed.

import { Sandbox, Template, waitForFile, waitForPort, waitForProcess, waitForTimeout, waitForURL } from 'e2b';

const server = 'python3 -m http.server 8080';
const templates = {
  port: Template().fromBaseImage().setStartCmd(server, waitForPort(8080)),
  url: Template().fromBaseImage().setStartCmd(server, waitForURL('http://localhost:8080/')),
  process: Template().fromBaseImage().setStartCmd('exec -a my-daemon sleep infinity', waitForProcess('sleep')),
  file: Template().fromBaseImage().setStartCmd('sleep 0.5; touch /tmp/up; sleep infinity', waitForFile('/tmp/up')),
  timeout: Template().fromBaseImage().setStartCmd(server, waitForTimeout(1_000)),
  command: Template().fromBaseImage().setReadyCmd('true'),
};

const asked = process.argv.slice(2);
for (const kind of asked.length ? asked : Object.keys(templates)) {
  await Template.build(templates[kind], `example-ready-${kind}-js`, { memoryMB: 512 });
  const sandbox = await Sandbox.create(`example-ready-${kind}-js`, { timeoutMs: 120_000 });
  try {
    const processes = (await sandbox.commands.list()).map((process) => [process.cmd, ...process.args].join(' '));
    console.log(`${kind}: ready; running:`, processes.length ? processes[0].replace('/bin/bash -l -c ', '') : 'nothing');
    if (kind === 'port') {
      console.log('answers:', (await sandbox.commands.run("curl -s -o /dev/null -w '%{http_code}' localhost:8080")).stdout);
    }
  } finally {
    await sandbox.kill();
  }
}
