// Who may reach a sandbox: the SDK holds its tokens, everybody else is refused.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create({ network: { allowPublicTraffic: false } });
const status = async (port, path, headers) => {
  const address = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) };
  return (await fetch(process.env.E2B_SANDBOX_URL + path, { headers: { ...address, ...headers } })).status;
};
try {
  await sandbox.commands.run('python3 -m http.server 8000', { background: true });
  await sandbox.commands.run('curl -s --retry-connrefused --retry 20 --retry-delay 1 -o /dev/null http://127.0.0.1:8000/');
  const token = { 'E2b-Traffic-Access-Token': sandbox.trafficAccessToken };

  console.log('web server, without a token:', await status(8000, '/'));
  console.log('web server, with the token:', await status(8000, '/', token));
  console.log('files, with only that token:', await status(49983, '/files?path=/etc/hostname', token));
  console.log('files, by the SDK:', (await sandbox.files.exists('/etc/hostname')) ? 'yes' : 'no');
} finally {
  await sandbox.kill();
}
