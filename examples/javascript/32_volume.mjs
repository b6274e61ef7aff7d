// Data that outlives a sandbox and is shared by two; and the same volume without a sandbox.

import { randomUUID } from 'node:crypto';
import { Sandbox, Volume } from 'e2b';

const volume = await Volume.create(`example-${randomUUID().slice(0, 8)}`);
const sandboxes = [];
try {
  await volume.writeFile('/input.csv', '1,2');
  const one = await Sandbox.create({ volumeMounts: { '/data': volume } });
  sandboxes.push(one);
  const two = await Sandbox.create({ volumeMounts: { '/shared': `${volume.name}:ro` } });
  sandboxes.push(two);

  console.log('two sees:', await two.files.read('/shared/input.csv'));
  await one.commands.run('echo $(cat /data/input.csv),3 > /data/output.csv');
  console.log('back:', (await two.files.read('/shared/output.csv')).trim());
  const written = await two.commands.run('touch /shared/x || echo no');
  console.log('read-only:', written.stdout.trim() === 'no' ? 'yes' : 'no');
  console.log('files:', ...(await volume.list('/')).map((entry) => entry.path).sort());
  await Volume.destroy(volume.volumeId).catch((error) => console.log('in use:', error.message.slice(0, 3)));

  for (const sandbox of sandboxes.splice(0)) await sandbox.kill();
  const again = await Volume.connect(volume.volumeId);
  console.log('after the sandboxes:', (await again.readFile('/output.csv')).trim());
} finally {
  for (const sandbox of sandboxes) await sandbox.kill();
  console.log('deleted:', (await Volume.destroy(volume.volumeId)) ? 'yes' : 'no');
}
