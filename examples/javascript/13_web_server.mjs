// Run a web server in a sandbox and ask it from outside.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create();
try {
  await sandbox.commands.run("mkdir -p site && echo 'hello from inside' > site/index.html");
  await sandbox.commands.run('python3 -m http.server 8000 --bind 127.0.0.1 --directory site', { background: true });
  await sandbox.commands.run('curl -s --retry-connrefused --retry 20 --retry-delay 1 -o /dev/null http://127.0.0.1:8000/');

  console.log('port 8000 is', sandbox.getHost(8000).split('.')[0].replace(sandbox.sandboxId, '<id>'));

  // With a domain of your own, https:// + getHost() is all. Without, the server's address and two headers say what is meant.
  const headers = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '8000' };
  const answer = await fetch(`${process.env.E2B_SANDBOX_URL}/`, { headers });
  console.log((await answer.text()).trim());
} finally {
  await sandbox.kill();
}
