// Pause a sandbox and go on with it later: with its memory and processes, or with its files only.

import { Sandbox } from '@e2b/code-interpreter';

const sandbox = await Sandbox.create({ timeoutMs: 120_000 });
try {
  await sandbox.runCode('total = 40');
  await sandbox.files.write('notes', 'kept on disk');
  const worker = await sandbox.commands.run('for i in 1 2 3 4 5; do echo step $i; sleep 0.3; done', { background: true });
  worker.wait().catch(() => {}); // the pause breaks this stream; the command itself goes on after it

  console.log('paused:', (await sandbox.pause()) ? 'yes' : 'already');
  console.log('state:', (await sandbox.getInfo()).state);
  console.log('running:', (await sandbox.isRunning()) ? 'yes' : 'no');

  const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 120_000 }); // from any other program with the key
  console.log('variables:', (await again.runCode('total + 2')).text);
  const handle = await again.commands.connect(worker.pid);
  console.log('the command goes on:', (await handle.wait()).stdout.trim().split('\n').at(-1));

  await sandbox.pause({ keepMemory: false }); // ends the processes and frees their memory
  await again.connect({ timeoutMs: 120_000 });
  console.log('files:', await again.files.read('notes'));
  console.log('variables:', (await again.runCode('total')).error.name);
} finally {
  await sandbox.kill();
}
