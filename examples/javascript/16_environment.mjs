// Environment variables: of the sandbox, and of one command, which wins.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create({ envs: { COLOUR: 'blue', SHAPE: 'round' } });
try {
  const show = async (title, options) =>
    console.log(`${title}:`, (await sandbox.commands.run('echo $COLOUR $SHAPE', options)).stdout.trim());
  await show('sandbox');
  await show('command', { envs: { COLOUR: `it's "red"` } });
  await show('afterwards');
  console.log('in a sandbox:', (await sandbox.commands.run('echo $E2B_SANDBOX')).stdout.trim());
} finally {
  await sandbox.kill();
}
