// A template of your own: a recipe, built once, and sandboxes from it in milliseconds.

import { Sandbox, Template, defaultBuildLogger } from 'e2b';

const template = Template()
  .fromBaseImage()
  .aptInstall('jq', { noInstallRecommends: true })
  .npmInstall('cowsay', { g: true })
  .setEnvs({ GREETING: 'moo' })
  .runCmd('echo made at build > /home/user/note');

let began = Date.now();
const built = await Template.build(template, 'example-first-js', { cpuCount: 1, memoryMB: 512, onBuildLogs: defaultBuildLogger() });
const cold = Date.now() - began;
console.log('built:', built.name);

began = Date.now();
await Template.build(template, 'example-first-js', { cpuCount: 1, memoryMB: 512 });
const cached = Date.now() - began;
console.log('a second build takes its steps from the cache:', cached < Math.max(cold / 2, 5_000) ? 'yes' : 'no');

const sandbox = await Sandbox.create('example-first-js', { timeoutMs: 120_000 });
try {
  console.log('note:', (await sandbox.commands.run('cat note')).stdout.trim());
  console.log('jq:', (await sandbox.commands.run('echo \'{"a": [1, 2]}\' | jq -c .a')).stdout.trim());
  console.log((await sandbox.commands.run('cowsay $GREETING')).stdout);
} finally {
  await sandbox.kill();
}
