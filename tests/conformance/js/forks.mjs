// Forks and snapshots by the unmodified JavaScript SDK, against the server that the environment names; prints what it saw as one JSON object.
import { Sandbox } from 'e2b'

const apiHeaders = { 'X-Fork-Memory': 'false' }
const seen = {}
const failure = (promise) => promise.then(() => 'nothing', (error) => [error.name, error.message])

const sandbox = await Sandbox.create('base', { metadata: { a: 'b' } })
const copies = await sandbox.fork({ count: 2, timeoutMs: 60_000, apiHeaders })
seen.copies = copies.map((one) => one instanceof Sandbox)
seen.ids = new Set([sandbox, ...copies].map((one) => one.sandboxId)).size
const info = await copies[0].getInfo()
seen.info = { metadata: info.metadata, template: info.templateId === (await sandbox.getInfo()).templateId }
seen.running = await copies[1].isRunning()
const [third] = await Sandbox.fork(copies[0].sandboxId, { apiHeaders })
seen.third = third instanceof Sandbox
seen.plain = await failure(sandbox.fork())
seen.none = await failure(sandbox.fork({ count: 0, apiHeaders }))
seen.listed = (await Sandbox.listSnapshots().nextItems()).length
await Promise.all([...copies, third].map((one) => one.kill()))

const snapshot = await sandbox.createSnapshot({ name: 'js-snap' })
const created = await Sandbox.create(snapshot.snapshotId)
seen.used = await failure(Sandbox.deleteSnapshot(snapshot.snapshotId))
await created.kill()
await sandbox.kill()
seen.gone = await failure(sandbox.fork({ apiHeaders }))
seen.deleted = [await Sandbox.deleteSnapshot(snapshot.snapshotId), await Sandbox.deleteSnapshot(snapshot.snapshotId)]
console.log(JSON.stringify(seen))
