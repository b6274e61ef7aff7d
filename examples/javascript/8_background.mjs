// Start a program in the background, see its output as it comes, send it input, and end it.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create();
const running = async () => (await sandbox.commands.list()).map((one) => one.args.at(-1)).join(', ') || 'nothing';
try {
  await sandbox.commands.run('for i in 1 2 3; do echo line $i; sleep 0.2; done', {
    onStdout: (text) => console.log('streamed:', text.trim()),
  });

  const counter = await sandbox.commands.run('wc -w', { background: true, stdin: true });
  await counter.sendStdin('three words here\n');
  await counter.sendStdin('and two\n');
  await counter.closeStdin();
  console.log('words:', (await counter.wait()).stdout.trim());

  const sleeper = await sandbox.commands.run('sleep 1000', { background: true });
  await sleeper.disconnect(); // it runs on without us
  console.log('running:', await running());

  const again = await sandbox.commands.connect(sleeper.pid);
  console.log('killed:', (await again.kill()) ? 'yes' : 'no');
  await again.wait().catch(() => {});
  console.log('running:', await running());
} finally {
  await sandbox.kill();
}
