// The files of a sandbox, saved as a template: more sandboxes begin where this one is.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create({ timeoutMs: 120_000 });
let snapshot;
try {
  await sandbox.commands.run("mkdir project && echo 'work so far' > project/notes");
  snapshot = await sandbox.createSnapshot();
  await sandbox.commands.run("echo 'and more' >> project/notes");

  for (const number of [1, 2]) {
    const copy = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 60_000 });
    try {
      console.log(`copy ${number}:`, (await copy.commands.run('cat project/notes')).stdout.trim());
    } finally {
      await copy.kill();
    }
  }
  console.log('the first:', (await sandbox.commands.run('tail -n 1 project/notes')).stdout.trim());
  const listed = await sandbox.listSnapshots().nextItems();
  console.log('listed:', listed.some((one) => one.snapshotId === snapshot.snapshotId) ? 'yes' : 'no');
} finally {
  await sandbox.kill();
}
console.log('deleted:', (await Sandbox.deleteSnapshot(snapshot.snapshotId)) ? 'yes' : 'no');
