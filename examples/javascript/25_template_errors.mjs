// What goes wrong in a build, and how it is told: the message names the cause, the stack the line of the recipe.

import { readFileSync } from 'node:fs';
import { BuildError, Template, waitForPort } from 'e2b';

const templates = {
  'a failing step': Template().fromBaseImage().runCmd('echo before').runCmd('cat /does/not/exist'),
  'no such user': Template().fromBaseImage().runCmd('whoami', { user: 'nobody-knows' }),
  'no such image': Template().fromImage('fedora:44'),
  'a start command that dies': Template().fromBaseImage().setStartCmd('echo no licence; exit 7', waitForPort(80)),
};

const lines = readFileSync(new URL(import.meta.url), 'utf8').split('\n');
for (const [name, template] of Object.entries(templates)) {
  try {
    await Template.build(template, 'example-broken-js');
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    console.log(`${name}: ${error.message}`);
    const place = /25_template_errors\.mjs:(\d+)/.exec(error.stack);
    console.log('    at:', lines[place[1] - 1].trim());
  }
}
