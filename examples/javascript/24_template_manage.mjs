// Builds in the background, their status and log; names, tags; building on another template.

import { setTimeout } from 'node:timers/promises';
import { Sandbox, Template } from 'e2b';

const base = Template().fromBaseImage().runCmd('echo one > /home/user/version');
const info = await Template.buildInBackground(base, 'example-managed-js:v1', { tags: ['stable'] });
let status;
for (let logsOffset = 0; ; await setTimeout(200)) {
  status = await Template.getBuildStatus(info, { logsOffset });
  logsOffset += status.logEntries.length;
  for (const entry of status.logEntries) console.log('log:', entry.level, entry.message);
  if (['ready', 'error'].includes(status.status) && !status.logEntries.length) break;
}
console.log('status:', status.status);
console.log('exists:', await Template.exists('example-managed-js'), await Template.exists('example-unheard-of'));

await Template.build(Template().fromTemplate('example-managed-js:v1').runCmd('echo two > /home/user/version'), 'example-managed-js:v2');
await Template.assignTags('example-managed-js:v2', ['production', 'latest']);
await Template.removeTags('example-managed-js', 'latest');
const tags = await Template.getTags('example-managed-js');
console.log('tags:', tags.map((tag) => tag.tag).sort().join(' '));
for (const tag of ['v1', 'stable', 'production']) {
  const sandbox = await Sandbox.create(`example-managed-js:${tag}`, { timeoutMs: 60_000 });
  try {
    console.log(`${tag}:`, (await sandbox.commands.run('cat version')).stdout.trim());
  } finally {
    await sandbox.kill();
  }
}
