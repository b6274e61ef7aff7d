// Drives pause and resume of the unmodified JavaScript SDKs against the server that the environment names; prints what it saw as JSON.
import { Sandbox, SandboxNotFoundError } from 'e2b'
import { Sandbox as Interpreter } from '@e2b/code-interpreter'

const seen = {}
const failure = (promise) => promise.then(() => 'nothing', (error) => error)
const name = async (promise) => (await failure(promise)).name
const until = async (look) => {
  const deadline = Date.now() + 20_000
  while (!(await look())) {
    if (Date.now() > deadline) throw new Error(`it did not come to that: ${look}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
const bootId = async (sandbox) => (await sandbox.commands.run('cat /proc/sys/kernel/random/boot_id')).stdout
const stateOf = async (sandbox) => (await sandbox.getInfo()).state

for (const [mode, keepMemory] of [['full', true], ['filesystem', false]]) {
  const sandbox = await Sandbox.create('base', { timeoutMs: 300_000, metadata: { of: mode }, envs: { SHARED: 'sandbox' } })
  await sandbox.files.write('note', 'before')
  const boot = await bootId(sandbox)
  const sleeper = await sandbox.commands.run('sleep 1000', { background: true })
  const paused = [await sandbox.pause({ keepMemory }), await sandbox.pause({ keepMemory })]
  const info = await sandbox.getInfo()
  const listed = await Sandbox.list({ query: { metadata: { of: mode }, state: ['paused'] } }).nextItems()
  const away = [await sandbox.isRunning(), info.state, info.metadata, listed.map((one) => one.sandboxId === sandbox.sandboxId)]
  const refused = {
    command: await name(sandbox.commands.run('true')),
    file: await name(sandbox.files.read('note')),
    list: await name(sandbox.files.list('/')),
    timeout: await name(sandbox.setTimeout(60_000)),
  }
  const same = await sandbox.connect({ timeoutMs: 200_000 })
  const other = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 60_000 })
  seen[mode] = {
    paused,
    away,
    refused,
    same: same.sandboxId === sandbox.sandboxId,
    note: [await sandbox.files.read('note'), (await other.commands.run('echo $SHARED $(id -un) $PWD; cat note')).stdout],
    sameBoot: (await bootId(sandbox)) === boot,
    sleeper: (await sandbox.commands.list()).map((one) => one.pid === sleeper.pid),
    byId: await Sandbox.pause(sandbox.sandboxId, { keepMemory }),
    killed: [await sandbox.kill(), await sandbox.kill()],
    gone: [await name(sandbox.pause()), await name(sandbox.connect()), await name(sandbox.getInfo()), await name(sandbox.setTimeout(1000))],
  }
}

{
  const sandbox = await Sandbox.create('base', { timeoutMs: 300_000 })
  const counter = await sandbox.commands.run('for i in $(seq 20); do echo line $i; sleep 0.1; done; echo end', { background: true })
  const terminal = await sandbox.pty.create({ cols: 90, rows: 30, onData: () => {} })
  await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('cd /tmp; kept=yes; touch ready\n'))
  await until(() => sandbox.files.exists('/tmp/ready'))
  const ended = failure(counter.wait())
  await sandbox.pause()
  seen.brokenStream = (await ended) instanceof Error
  await sandbox.connect()
  const again = await sandbox.commands.connect(counter.pid)
  seen.reconnected = (await again.wait()).stdout.split('\n').slice(-3)
  let shown = ''
  const decoder = new TextDecoder()
  const shell = await sandbox.pty.connect(terminal.pid, { onData: (data) => { shown += decoder.decode(data, { stream: true }) } })
  await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('echo =$kept=$PWD=$(stty size)=; exit 7\n'))
  seen.terminal = [(await failure(shell.wait())).exitCode, shown.includes('=yes=/tmp=30 90=')]
  const boot = await bootId(sandbox)
  await sandbox.pause()
  await sandbox.connect({ onResume: 'reboot' })
  seen.reboot = (await bootId(sandbox)) !== boot
  await sandbox.kill()
}

{
  const sandbox = await Sandbox.create('base', { timeoutMs: 60_000, lifecycle: { onTimeout: 'pause', autoResume: true } })
  seen.lifecycle = (await sandbox.getInfo()).lifecycle
  await sandbox.setTimeout(0)
  await until(async () => (await stateOf(sandbox)) === 'paused')
  seen.woken = (await sandbox.commands.run('echo here')).stdout
  const { startedAt, endAt } = await sandbox.getInfo()
  seen.awake = Math.round((endAt - startedAt) / 60_000)
  await sandbox.commands.run('python3 -m http.server 8000', { background: true, cwd: '/tmp' })
  await until(async () => (await sandbox.commands.run('(exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null && echo yes || true')).stdout)
  await sandbox.pause()
  const headers = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '8000' }
  const answers = await Promise.all(Array.from({ length: 10 }, () => fetch(process.env.E2B_API_URL, { headers })))
  seen.requests = answers.map((answer) => answer.status)
  await sandbox.pause({ keepMemory: false })
  seen.files = [(await fetch(process.env.E2B_API_URL, { headers })).status, await sandbox.isRunning(), await stateOf(sandbox)]
  await sandbox.kill()
  const files = await Sandbox.create('base', { timeoutMs: 60_000, lifecycle: { onTimeout: { action: 'pause', keepMemory: false } } })
  const boot = await bootId(files)
  await files.setTimeout(0)
  await until(async () => (await stateOf(files)) === 'paused')
  await files.connect()
  seen.autoPauseOfFiles = (await bootId(files)) !== boot
  await files.kill()
}

{
  const sandbox = await Interpreter.create({ timeoutMs: 300_000 })
  await sandbox.runCode('kept = 41')
  await sandbox.runCode('var kept = 41', { language: 'javascript' })
  await sandbox.pause()
  const again = await Interpreter.connect(sandbox.sandboxId)
  const js = await again.runCode('console.log(kept + 1)', { language: 'javascript' })
  seen.contexts = [(await again.runCode('kept + 1')).text, js.logs.stdout.join('')]
  await again.kill()
}

seen.wrong = [
  await name(Sandbox.create('base', { lifecycle: { onTimeout: 'kill', autoResume: true } })),
  await name(Sandbox.create('base', { lifecycle: { onTimeout: { action: 'pause', keepMemory: false }, autoResume: true } })),
  (await failure(Sandbox.pause('a'.repeat(20)))) instanceof SandboxNotFoundError,
]
console.log(JSON.stringify(seen))
