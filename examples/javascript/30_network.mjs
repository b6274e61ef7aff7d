// The internet of a sandbox: limited to names, changed while it runs, and the record of what was contacted.

import { ALL_TRAFFIC, Sandbox } from 'e2b';

const fetchFrom = async (sandbox, host) => {
  const command = `curl --silent --fail --output /dev/null https://${host}/get && echo reached || echo refused`;
  return (await sandbox.commands.run(command)).stdout.trim();
};
const refusals = async (sandbox) => {
  const address = `${process.env.E2B_API_URL}/sandboxes/${sandbox.sandboxId}/connections?verdict=refused`;
  return (await fetch(address, { headers: { 'X-API-Key': process.env.E2B_API_KEY } })).json();
};

const sandbox = await Sandbox.create({ network: { allowOut: ['httpbin.org'], denyOut: [ALL_TRAFFIC] } });
try {
  console.log('httpbin.org:', await fetchFrom(sandbox, 'httpbin.org'));
  console.log('example.com:', await fetchFrom(sandbox, 'example.com'));

  let found;
  while (!(found = await refusals(sandbox)).length) await new Promise((resolve) => setTimeout(resolve, 500));
  console.log('in the record:', found[0].name, found[0].rule);

  await sandbox.updateNetwork({ denyOut: [ALL_TRAFFIC] });
  console.log('after the update:', await fetchFrom(sandbox, 'httpbin.org'));
  await sandbox.updateNetwork({});
  console.log('without limits:', await fetchFrom(sandbox, 'httpbin.org'));
} finally {
  await sandbox.kill();
}
