// Git in a sandbox: commit on a branch, push to a server (here a directory), clone from it.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create();
try {
  const { git } = sandbox;
  await git.init('server.git', { bare: true, initialBranch: 'main' });
  await git.init('project', { initialBranch: 'main' });
  await git.configureUser('Ada Lovelace', 'ada@example.com');

  await sandbox.commands.run('echo hello > project/readme.txt');
  console.log('changed:', ...(await git.status('project')).fileStatus.map((one) => one.name));
  await git.add('project');
  await git.commit('project', 'Say hello');

  await git.createBranch('project', 'feature');
  await git.commit('project', 'Nothing yet', { allowEmpty: true });
  console.log('branches:', ...(await git.branches('project')).branches);
  await git.checkoutBranch('project', 'main');

  await git.remoteAdd('project', 'origin', '/home/user/server.git');
  await git.push('project', { remote: 'origin', branch: 'main' }); // username and password for a server that wants them
  await git.clone('/home/user/server.git', { path: 'copy' });
  console.log('cloned:', (await sandbox.commands.run('cat copy/readme.txt')).stdout.trim());
} finally {
  await sandbox.kill();
}
