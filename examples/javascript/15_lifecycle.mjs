// The life of a sandbox: describe it, find it, connect to it, give it more time, kill it.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create({ timeoutMs: 60_000, metadata: { owner: 'ada' } });
const secondsToLive = (info) => (info.endAt - info.startedAt) / 1000;
try {
  let info = await sandbox.getInfo();
  console.log('state:', info.state);
  console.log('template:', info.name);
  console.log('metadata:', info.metadata.owner);
  console.log('seconds to live:', Math.round(secondsToLive(info)));

  await sandbox.setTimeout(600_000);
  info = await sandbox.getInfo();
  console.log('more than before:', secondsToLive(info) > 300 ? 'yes' : 'no');

  const found = await Sandbox.list({ query: { metadata: { owner: 'ada' } } }).nextItems();
  console.log('found:', found.some((one) => one.sandboxId === sandbox.sandboxId) ? 'yes' : 'no');

  const same = await Sandbox.connect(sandbox.sandboxId);
  await same.commands.run('echo remembered > note');
  console.log('connected:', (await sandbox.commands.run('cat note')).stdout.trim());
} finally {
  await sandbox.kill();
}
console.log('running:', (await sandbox.isRunning()) ? 'yes' : 'no');
