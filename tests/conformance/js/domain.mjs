// The official JavaScript SDK with E2B_DOMAIN only: API, code interpreter and a program's port by the public domain, all by TLS.
import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
try {
  const seen = { running: await sandbox.isRunning(), text: (await sandbox.runCode('1+1')).text, host: sandbox.getHost(8000) }
  await sandbox.runCode(`
import subprocess
subprocess.Popen(['python3', '-m', 'http.server', '8000', '--bind', '127.0.0.1', '--directory', '/etc'], start_new_session=True)
`)
  const end = Date.now() + 30_000
  do {
    seen.status = (await fetch(`https://${sandbox.getHost(8000)}/debian_version`)).status
  } while (seen.status === 502 && Date.now() < end) // the program does not listen yet
  console.log(JSON.stringify(seen))
} finally {
  await sandbox.kill()
}
