// Run commands: output, exit code, working directory, user.

import { CommandExitError, Sandbox } from 'e2b';

const sandbox = await Sandbox.create();
try {
  const result = await sandbox.commands.run('echo hello; echo oh >&2');
  console.log('stdout:', result.stdout.trim());
  console.log('stderr:', result.stderr.trim());
  console.log('exit code:', result.exitCode);

  console.log('directory:', (await sandbox.commands.run('pwd', { cwd: '/tmp' })).stdout.trim());
  console.log('user:', (await sandbox.commands.run('whoami')).stdout.trim());
  console.log('other user:', (await sandbox.commands.run('whoami', { user: 'root' })).stdout.trim());

  try {
    await sandbox.commands.run('ls /nowhere');
  } catch (error) {
    if (!(error instanceof CommandExitError)) throw error;
    console.log('failed with exit code', error.exitCode);
  }
} finally {
  await sandbox.kill();
}
