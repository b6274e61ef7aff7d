// The `mcp` option of the JavaScript SDK, asked with plain HTTP; prints what it saw as one JSON object.
import { Sandbox } from 'e2b'

const sandbox = await Sandbox.create({ mcp: { time: {} }, timeoutMs: 120_000 })
const seen = { url: sandbox.getMcpUrl() }
const headers = {
  'E2b-Sandbox-Id': sandbox.sandboxId,
  'E2b-Sandbox-Port': '50005',
  'Content-Type': 'application/json',
  Accept: 'application/json, text/event-stream',
}
let session = {}
async function ask(method, params, id) {
  const answer = await fetch(`${process.env.E2B_SANDBOX_URL}/mcp`, {
    method: 'POST',
    headers: { ...headers, ...session, Authorization: `Bearer ${await sandbox.getMcpToken()}` },
    body: JSON.stringify({ jsonrpc: '2.0', method, params, id }),
  })
  const id_ = answer.headers.get('mcp-session-id')
  if (id_) session = { 'Mcp-Session-Id': id_ }
  const text = await answer.text()
  const data = text.split('\n').find(line => line.startsWith('data: {'))
  return data ? JSON.parse(data.slice(6)).result : undefined
}
const clientInfo = { name: 'test', version: '1' }
await ask('initialize', { protocolVersion: '2025-06-18', capabilities: {}, clientInfo }, 1)
await ask('notifications/initialized')
seen.tools = (await ask('tools/list', {}, 2)).tools.map(tool => tool.name)
const again = await Sandbox.connect(sandbox.sandboxId)
seen.token = (await again.getMcpToken()) === (await sandbox.getMcpToken())
await sandbox.kill()
seen.unknown = await Sandbox.create({ mcp: { nothere: {} }, timeoutMs: 60_000 }).then(() => 'nothing', error => error.message)
console.log(JSON.stringify(seen))
