// Uses a sandbox through whichever release of the JavaScript SDKs is installed in the working directory; prints what each step gave, as JSON.
import { createRequire } from 'node:module'

const require = createRequire(`${process.cwd()}/package.json`)
const { Sandbox } = require('@e2b/code-interpreter')
const [major, minor] = require('e2b/package.json').version.split('.').map(Number)
const seen = {}
// Its second line comes only when the handler of the first one has done something, so output must come while the code runs.
const WAITING = `
import os, time
print(0, flush=True)
end = time.monotonic() + 20
while not os.path.exists("/tmp/go") and time.monotonic() < end:
    time.sleep(0.02)
print(1, flush=True)
os.path.exists("/tmp/go")
`
let sandbox

async function step(name, work) {
  try {
    seen[name] = (await work()) ?? null
  } catch (error) {
    seen[name] = `${error.name}: ${error.message}${error.cause ? ` (${error.cause.code ?? error.cause.message})` : ''}`
  }
}

await step('create', async () => {
  sandbox = await Sandbox.create({ timeoutMs: 120_000, envs: { NAME: 'value' }, metadata: { a: 'b' } })
  return true
})
if (sandbox) {
  await step('host', () => sandbox.getHost(8000).replace(/^[^.]*\./, '').replace(/:.*/, ''))
  await step('is_running', () => sandbox.isRunning())
  await step('run_code', async () => {
    const lines = []
    const run = await sandbox.runCode(WAITING, {
      onStdout: out => {
        lines.push(out.line)
        sandbox.files.write('/tmp/go', '').catch(() => {})
      },
    })
    const failed = await sandbox.runCode('1 / 0')
    return [lines.join(''), run.text, failed.error.name]
  })
  await step('timeout', async () => {
    const began = performance.now()
    try {
      await sandbox.runCode('import time; time.sleep(30)', { timeoutMs: 2000 })
    } catch (error) {
      return [error.name, performance.now() - began < 20_000, (await sandbox.runCode('1 + 1')).text]
    }
    return 'it was not ended'
  })
  await step('commands', async () => {
    let lines = ''
    const done = await sandbox.commands.run('echo one; echo two >&2', { onStdout: text => { lines += text } })
    try {
      await sandbox.commands.run('exit 3')
    } catch (error) {
      return [lines, done.stdout, done.stderr, error.name]
    }
    return ['no error']
  })
  await step('files', async () => {
    await sandbox.files.write('/home/user/a b.txt', 'text é')
    const entries = await sandbox.files.list('/home/user')
    return [await sandbox.files.read('/home/user/a b.txt'), entries.map(entry => entry.name).filter(name => name.startsWith('a b'))]
  })
  await step('list', async () => {
    const found = await Sandbox.list()
    const items = Array.isArray(found) ? found : await found.nextItems()
    return items.map(info => info.sandboxId.split('-')[0]).includes(sandbox.sandboxId.split('-')[0])
  })
  await step('connect', async () => (await (await Sandbox.connect(sandbox.sandboxId)).commands.run('echo again')).stdout)
  await step('secure', async () => {
    if (major >= 2) return 'is always so'
    if (minor < 5) return 'unknown to this release'
    const other = await Sandbox.create({ timeoutMs: 60_000, secure: true })
    try {
      return [(await other.commands.run('echo safe')).stdout, (await other.runCode('1 + 1')).text]
    } finally {
      await other.kill()
    }
  })
  await step('set_timeout', () => sandbox.setTimeout(60_000))
  await step('kill', async () => [(await sandbox.kill()) !== false, await sandbox.isRunning()])
}
console.log(JSON.stringify(seen))
process.exit(0)
