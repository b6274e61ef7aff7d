// Every method of the template builder that needs no server of somebody else's.

import { Sandbox, Template } from 'e2b';

const template = Template({ fileContextPath: new URL('../app', import.meta.url).pathname, fileIgnorePatterns: ['**/*.tmp'] })
  .fromTemplate('base')
  // files from beside this program, with ignore rules, owners and modes
  .copy('main.py', '/opt/app/', { user: 'root', mode: 0o755 })
  .copy(['static', 'config.json'], '/opt/app/static/')
  .copyItems([
    { src: 'config.json', dest: 'settings/config.json' },
    { src: '*.txt', dest: 'texts/' },
  ])
  .makeDir('/home/user/data', { mode: 0o700 })
  .makeDir(['/home/user/a', '/home/user/b/c'])
  .makeSymlink('/opt/app/main.py', '/home/user/main.py')
  .runCmd('echo draft > draft.txt')
  .rename('draft.txt', 'final.txt')
  .runCmd(['touch old.log', 'touch older.log'])
  .remove(['old.log', 'older.log'])
  .remove('/home/user/b', { recursive: true, force: true })
  // packages
  .aptInstall(['tree'], { noInstallRecommends: true })
  .pipInstall(['tinydb'])
  .npmInstall('left-pad', { g: true })
  // variables, user, directory
  .setEnvs({ APP_MODE: 'it\'s "live"', APP_HOME: '$HOME/data' })
  .setUser('worker')
  .setWorkdir('/srv/work')
  .runCmd('whoami > who && pwd >> who')
  .runCmd('whoami > /srv/work/root-was-here', { user: 'root' })
  // a repository
  .runCmd('git init -q -b main /tmp/origin && cd /tmp/origin && git -c user.name=w -c user.email=w@x commit -q --allow-empty -m first')
  .gitClone('file:///tmp/origin', '/srv/work/clone', { branch: 'main', depth: 1 })
  // from here on always anew, whatever is in the cache
  .skipCache()
  .runCmd('date +%s > built-at');

console.log('steps:', JSON.parse(await Template.toJSON(template)).steps.length);
await Template.build(template, 'example-steps-js', { cpuCount: 2, memoryMB: 1024 });

const checks = [
  "stat -c '%U %a %n' /opt/app/main.py && /home/user/main.py",
  "cd /opt/app/static && find . -type f | sort | paste -sd ' '",
  "cat /home/user/settings/config.json && ls /home/user/texts | paste -sd ' '",
  "stat -c '%a %n' /home/user/data && readlink /home/user/main.py",
  'cat /home/user/final.txt; ls -d /home/user/*.log /home/user/b 2> /dev/null || echo removed',
  "tree --version | cut -d ' ' -f 1 && python3 -c 'import tinydb; print(\"tinydb\")' && ls $(npm root -g) | grep left-pad",
  'echo "$APP_MODE in $APP_HOME"',
  "paste -sd ' ' who && stat -c %U root-was-here && whoami && pwd",
  'git -C clone log --format=%s && test -s built-at && echo built',
];
const sandbox = await Sandbox.create('example-steps-js', { timeoutMs: 120_000 });
try {
  for (const check of checks) console.log((await sandbox.commands.run(check)).stdout.trim());
} finally {
  await sandbox.kill();
}
