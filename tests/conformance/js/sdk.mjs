// Drives the unmodified JavaScript SDKs against the server that the environment names; prints what it saw as one JSON object.
import { Sandbox } from '@e2b/code-interpreter'

const seen = {}
const nameOf = (promise) => promise.then(() => 'nothing', (error) => error.name)

const sandbox = await Sandbox.create({ metadata: { 'a b': 'c&d' }, timeoutMs: 60_000 })
const lines = []
const execution = await sandbox.runCode('hello', { onStdout: (message) => lines.push(message.line) })
seen.text = execution.text
seen.lines = lines
seen.error = (await sandbox.runCode('boom')).error.name
seen.running = await sandbox.isRunning()
seen.metadata = (await sandbox.getInfo()).metadata
seen.listed = (await Sandbox.list({ query: { metadata: { 'a b': 'c&d' } } }).nextItems()).length
seen.filtered = (await Sandbox.list({ query: { metadata: { 'a b': 'x' } } }).nextItems()).length
await sandbox.setTimeout(600_000)
seen.connected = (await (await Sandbox.connect(sandbox.sandboxId)).runCode('again')).text
seen.interrupted = await nameOf(
  sandbox.runCode('forever', { onStdout: () => Sandbox.kill(sandbox.sandboxId).catch(() => {}) })
)
seen.killedAgain = await sandbox.kill()
seen.runningAfter = await sandbox.isRunning()
seen.unknown = await nameOf(Sandbox.getInfo('a'.repeat(20)))
seen.wrongKey = await nameOf(Sandbox.create({ apiKey: 'e2b_' + '0'.repeat(40) }))
seen.unknownTemplate = await nameOf(Sandbox.create('nope'))
seen.refused = await Sandbox.create({ network: { denyOut: ['example.com'] } }).catch((error) => error.message)
console.log(JSON.stringify(seen))
