// Secrets by the JavaScript SDK; prints what it saw.
import { Secret } from 'e2b'

const seen = {}
const made = await Secret.create('Key', 'sk-value', { metadata: { a: 'b' } })
seen.made = [made.name, made.version, made.metadata]
seen.found = (await Secret.getInfo(made.secretId)).name
seen.changed = (await Secret.update('key', 'sk-other')).version
const pages = Secret.list({ limit: 2 })
seen.listed = (await pages.nextItems()).map((one) => one.name)
seen.duplicate = await Secret.create('key', 'x').catch((error) => error.name)
seen.exists = [await Secret.exists('key')]
seen.destroyed = [await Secret.destroy('key'), await Secret.destroy('key')]
seen.exists.push(await Secret.exists('key'))
seen.missing = await Secret.getInfo('key').catch((error) => error.name)
console.log(JSON.stringify(seen))
