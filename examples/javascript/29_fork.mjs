// Copies of a running sandbox: each begins with its files and goes its own way.

import { Sandbox } from 'e2b';

const files = { 'X-Fork-Memory': 'false' }; // without checkpoints a server copies the files, and a copy boots with them

const sandbox = await Sandbox.create('base', { timeoutMs: 120_000 });
try {
  await sandbox.commands.run("mkdir search && echo 'state so far' > search/state");
  const copies = await sandbox.fork({ count: 3, timeoutMs: 60_000, apiHeaders: files });
  for (const [index, copy] of copies.entries()) {
    if (copy instanceof Error) {
      console.log(`copy ${index + 1}: ${copy.message}`); // each copy succeeds or fails by itself
      continue;
    }
    await copy.commands.run(`echo 'branch ${index + 1}' >> search/state`);
    console.log(`copy ${index + 1}:`, (await copy.files.read('search/state')).trim().split('\n').join(', '));
    await copy.kill();
  }
  console.log('the original:', (await sandbox.files.read('search/state')).trim());
} finally {
  await sandbox.kill();
}
