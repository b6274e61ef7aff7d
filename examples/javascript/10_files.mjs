// Write, read, list, describe, rename and remove files.

import { FileNotFoundError, Sandbox } from 'e2b';

const sandbox = await Sandbox.create();
try {
  await sandbox.files.write('notes/today.txt', 'buy milk\n');
  await sandbox.files.writeFiles([
    { path: 'notes/one.txt', data: '1' },
    { path: 'notes/two.bin', data: new Uint8Array([0, 1, 2]).buffer },
  ]);
  console.log('text:', (await sandbox.files.read('notes/today.txt')).trim());
  console.log('bytes:', Buffer.from(await sandbox.files.read('notes/two.bin', { format: 'bytes' })).toString('hex'));

  await sandbox.files.makeDir('notes/old');
  await sandbox.files.rename('notes/one.txt', 'notes/old/one.txt');
  for (const entry of await sandbox.files.list('notes', { depth: 2 })) {
    console.log(`${entry.type} ${entry.path} ${entry.permissions}`);
  }

  const info = await sandbox.files.getInfo('notes/today.txt');
  console.log('size:', info.size, 'owner:', info.owner);

  await sandbox.files.remove('notes');
  console.log('exists:', (await sandbox.files.exists('notes')) ? 'yes' : 'no');
  try {
    await sandbox.files.read('notes/today.txt');
  } catch (error) {
    if (!(error instanceof FileNotFoundError)) throw error;
    console.log('not found');
  }
} finally {
  await sandbox.kill();
}
