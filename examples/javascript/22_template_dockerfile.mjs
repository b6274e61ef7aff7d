// A template from a Dockerfile: a text here, or the path of a file.

import { Sandbox, Template } from 'e2b';

const dockerfile = `
FROM python:3
ARG NAME=world
ENV GREETING=hello-$NAME MODE="$NAME"
WORKDIR /srv/app
COPY main.py config.json ./
RUN pip install --quiet tinydb
RUN python main.py > output.txt
USER user
CMD python -m http.server 8000
`;

const template = Template({ fileContextPath: new URL('../app', import.meta.url).pathname }).fromDockerfile(dockerfile);
console.log(Template.toDockerfile(Template().fromBaseImage().runCmd('echo hi')));
await Template.build(template, 'example-dockerfile-js');

const sandbox = await Sandbox.create('example-dockerfile-js', { timeoutMs: 120_000 });
const run = async (command) => (await sandbox.commands.run(command)).stdout.trim();
try {
  console.log('directory:', await run('pwd'));
  console.log('output:', await run('cat output.txt'));
  console.log('variable:', await run('echo $GREETING $MODE'));
  console.log('served:', await run('curl -s --retry 20 --retry-connrefused --retry-delay 1 localhost:8000/config.json'));
} finally {
  await sandbox.kill();
}
