// Every method of the volumes of the JavaScript SDK, against the server that the environment names. Prints what came back, as JSON.
import { Volume } from 'e2b'

const name = async (work) => work.then(() => 'nothing', (error) => error.name)
const volume = await Volume.create('js')
const again = await Volume.connect(volume.volumeId)
const seen = { listed: (await Volume.list()).length }
await volume.writeFile('/a', 'hello')
seen.text = await again.readFile('/a')
seen.bytes = (await again.readFile('/a', { format: 'bytes' })).length
seen.blob = (await again.readFile('/a', { format: 'blob' })).size
await volume.writeFile('/d/e/f', new Blob([new Uint8Array(2_000_000)]), { force: true, uid: 1, gid: 2 })
let size = 0
for await (const chunk of await volume.readFile('/d/e/f', { format: 'stream' })) size += chunk.length
seen.stream = size
await volume.writeFile('/a', '', { force: true })
seen.empty = await volume.readFile('/a')
await volume.makeDir('/d/e', { force: true })
seen.entries = (await volume.list('/', { depth: 3 })).map((one) => one.path)
seen.mode = (await volume.updateMetadata('/a', { mode: 0o600 })).mode
seen.missing = await name(volume.getInfo('/nothing'))
seen.exists = [await volume.exists('/a'), await volume.exists('/b')]
await volume.remove('/d')
seen.again = await name(Volume.create('js'))
seen.destroyed = [await Volume.destroy(volume.volumeId), await Volume.destroy(volume.volumeId)]
seen.gone = await name(Volume.getInfo(volume.volumeId))
console.log(JSON.stringify(seen))
