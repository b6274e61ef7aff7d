// A key that the code in a sandbox uses and cannot read, and a token that says which sandbox a request comes from.

import { randomUUID } from 'node:crypto';
import { Sandbox, Secret } from 'e2b';

const name = `example-${randomUUID()}`;
await Secret.create(name, 'the-key');
try {
  const rule = {
    transform: ({ iam }) => ({
      headers: { Authorization: `Bearer ${Secret.fill(name)}`, 'X-Identity': iam.tokens.example },
    }),
  };
  const sandbox = await Sandbox.create({
    iam: { tokens: { example: Secret.iamToken({ audience: 'https://httpbin.org', tokenType: 'JWT-SVID' }) } },
    network: { rules: { 'httpbin.org': [rule] } },
  });
  try {
    const request = 'curl --silent --fail https://httpbin.org/headers'; // it sends the headers back: a real service would not
    const { headers } = JSON.parse((await sandbox.commands.run(request)).stdout);
    console.log('the service sees:', headers.Authorization);
    const claims = JSON.parse(Buffer.from(headers['X-Identity'].split('.')[1], 'base64url'));
    console.log('the token is for:', claims.aud, 'and from this sandbox:', claims.sandbox_id === sandbox.sandboxId ? 'yes' : 'no');

    await Secret.update(name, 'another-key');
    while (!(await sandbox.commands.run(request)).stdout.includes('another-key'));
    console.log('after the update: Bearer another-key');
  } finally {
    await sandbox.kill();
  }
} finally {
  await Secret.destroy(name);
}
