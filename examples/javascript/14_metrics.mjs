// What a sandbox uses: processor, memory, disk.

import { setTimeout as sleep } from 'node:timers/promises';

import { Sandbox } from 'e2b';

const MiB = 1024 * 1024;
const sandbox = await Sandbox.create();
try {
  await sandbox.commands.run("head -c 50M /dev/zero > large; sync; timeout 2 sh -c 'while :; do :; done' || true");
  let metrics = [];
  while (metrics.length === 0) {
    await sleep(1000); // the first measurement takes a moment
    metrics = await sandbox.getMetrics();
  }
  const last = metrics.at(-1);
  console.log('processors:', last.cpuCount);
  console.log(`processor: ${last.cpuUsedPct.toFixed(0)} %`);
  console.log(`memory: ${Math.floor(last.memUsed / MiB)} of ${Math.floor(last.memTotal / MiB)} MiB`);
  console.log(`disk: ${Math.floor(last.diskUsed / MiB)} of ${Math.floor(last.diskTotal / MiB)} MiB`);
} finally {
  await sandbox.kill();
}
