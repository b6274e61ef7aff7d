// A terminal, as a person would use it: with a size, a prompt and a shell that is asked to leave.

import { Sandbox } from 'e2b';

const sandbox = await Sandbox.create();
try {
  const decoder = new TextDecoder();
  let output = '';
  const terminal = await sandbox.pty.create({
    rows: 24,
    cols: 80,
    onData: (data) => {
      output += decoder.decode(data, { stream: true });
    },
  });
  await sandbox.pty.resize(terminal.pid, { rows: 30, cols: 100 });
  await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('stty size; tty; echo $TERM; exit\n'));
  const result = await terminal.wait();
  console.log(output);
  console.log('exit code:', result.exitCode);
} finally {
  await sandbox.kill();
}
