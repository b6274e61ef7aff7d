// Drives sandbox.files of the unmodified JavaScript SDK against the server that the environment names; prints what it saw as JSON.
import { Sandbox } from 'e2b'

const seen = {}
const nameOf = (promise) => promise.then(() => 'nothing', (error) => error.name)

const sandbox = await Sandbox.create({ timeoutMs: 120_000 })
const { files } = sandbox
await files.write('js/a.txt', 'hello é')
seen.text = await files.read('js/a.txt')
seen.bytes = (await files.read('js/a.txt', { format: 'bytes' })).length
seen.blob = (await files.read('js/a.txt', { format: 'blob' })).size
seen.stream = 0
for await (const chunk of await files.read('js/a.txt', { format: 'stream' })) seen.stream += chunk.length
await files.write('js/empty', '')
seen.empty = await files.read('js/empty')
await files.write([{ path: 'js/m1', data: '1' }, { path: 'js/m2', data: new Blob(['2']) }, { path: 'js/q"t', data: '3' }])
seen.many = [await files.read('js/m1'), await files.read('js/m2')]
seen.quoted = await files.read('js/q"t')
await files.write('js/gz', 'z'.repeat(100_000), { gzip: true })
seen.gzip = (await files.read('js/gz', { gzip: true })).length
await files.write('js/meta', 'x', { metadata: { k: 'v' } })
const meta = await files.getInfo('js/meta')
seen.metadata = meta.metadata
seen.listed = (await files.list('js')).map((entry) => entry.name)
const info = await files.getInfo('js/a.txt')
seen.info = [info.type, info.size, info.permissions]
seen.made = [await files.makeDir('js/d'), await files.makeDir('js/d')]
seen.renamed = (await files.rename('js/a.txt', 'js/b.txt')).path
seen.exists = [await files.exists('js/a.txt'), await files.exists('js/b.txt')]
seen.missing = await nameOf(files.read('js/a.txt'))
seen.directory = await nameOf(files.read('js/d'))
const events = []
const watch = await files.watchDir('js/d', (event) => events.push(`${event.name} ${event.type}`))
await files.write('js/d/new.txt', 'data')
for (let i = 0; i < 100 && events.length < 3; i++) await new Promise((resolve) => setTimeout(resolve, 20))
await watch.stop()
seen.events = events
seen.signed = await (await fetch(await sandbox.downloadUrl('js/b.txt', { useSignatureExpiration: 60 }))).text()
const form = new FormData()
form.append('file', new Blob(['by url']), 'ignored')
await fetch(await sandbox.uploadUrl('js/u.txt'), { method: 'POST', body: form })
seen.uploaded = await files.read('js/u.txt')
seen.expired = (await fetch(await sandbox.downloadUrl('js/b.txt', { useSignatureExpiration: -10 }))).status
await files.remove('js')
await sandbox.kill()
console.log(JSON.stringify(seen))
