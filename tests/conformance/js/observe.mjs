// Reads a sandbox's metrics through the unmodified JavaScript SDK; prints what it saw as one JSON object.
import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
const seen = {}
await sandbox.runCode('1 + 1')
const [metric] = await sandbox.getMetrics()
seen.types = Object.fromEntries(Object.entries(metric).map(([name, value]) => [name, value instanceof Date ? 'Date' : typeof value]))
seen.age = Date.now() - metric.timestamp.getTime()
seen.future = (await sandbox.getMetrics({ start: new Date(Date.now() + 60_000) })).length
await sandbox.kill()
seen.gone = await Sandbox.getMetrics(sandbox.sandboxId).catch((error) => error.name)
console.log(JSON.stringify(seen))
