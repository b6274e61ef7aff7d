// Watch a directory, and learn of every change below it.

import { setTimeout as sleep } from 'node:timers/promises';

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create();
try {
  await sandbox.files.makeDir('work');
  const watcher = await sandbox.files.watchDir('work', (event) => console.log(event.type, event.name), { recursive: true });
  await sandbox.commands.run('cd work && echo hello > a.txt && mv a.txt b.txt && mkdir -p sub && rm b.txt');
  await sleep(500);
  await watcher.stop();
} finally {
  await sandbox.kill();
}
