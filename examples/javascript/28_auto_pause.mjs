// A sandbox that pauses at the end of its time instead of dying, and that requests wake again.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create('base', {
  timeoutMs: 1000,
  lifecycle: { onTimeout: 'pause', autoResume: true },
  metadata: { owner: 'ada' },
});
try {
  const isPaused = async () => {
    const paused = await Sandbox.list({ query: { metadata: { owner: 'ada' }, state: ['paused'] } }).nextItems();
    return paused.some((one) => one.sandboxId === sandbox.sandboxId);
  };
  while (!(await isPaused())) await new Promise((resolve) => setTimeout(resolve, 100));
  console.log('after its time: paused');

  const answers = await Promise.all([0, 1, 2].map((number) => sandbox.commands.run(`echo ${number}`)));
  console.log('woken by three commands:', answers.map((answer) => answer.stdout.trim()).join(''));
  const { state, startedAt, endAt } = await sandbox.getInfo();
  console.log('state:', state);
  console.log('awake for:', Math.round((endAt - startedAt) / 1000), 'seconds');
} finally {
  await sandbox.kill();
}
