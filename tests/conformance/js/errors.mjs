// Provokes the errors of the JavaScript SDK that are named as arguments, by real faults of the server that the environment names; without arguments all of `faults`.
// Prints, as JSON, what classes of errors each package exports (null: not the same class as e2b's), and what class and message each fault had.
import { readFileSync } from 'node:fs'
import * as e2b from 'e2b'
import * as interpreter from '@e2b/code-interpreter'

const { Sandbox, Secret, Template, Volume } = interpreter
const isError = (value) => typeof value === 'function' && value.prototype instanceof Error
const exported = (module) =>
  Object.fromEntries(Object.entries(module).flatMap(([name, value]) =>
    isError(value) || (typeof value === 'function' && /(Error|Exception)$/.test(name)) ? [[name, value === e2b[name] ? value.name : null]] : []))

let made
const sandbox = async () => (made ??= await Sandbox.create({ timeoutMs: 300_000 }))
const ended = async () => {
  const one = await Sandbox.create('base', { timeoutMs: 60_000 })
  await one.kill()
  return one.sandboxId
}
const refusingGit = async () => {
  // inside the sandbox, a server that asks for a password whatever it is asked
  const handler = 'class H(http.server.BaseHTTPRequestHandler):\n def do_GET(s): s.send_response(401); s.send_header("WWW-Authenticate", "Basic"); s.end_headers()'
  const { commands, files } = await sandbox()
  await files.write('refuse.py', `import http.server\n${handler}\nhttp.server.HTTPServer(("127.0.0.1", 8401), H).serve_forever()\n`)
  await commands.run('python3 refuse.py', { background: true, timeoutMs: 60_000 })
  await commands.run('until (exec 3<>/dev/tcp/127.0.0.1/8401) 2>/dev/null; do sleep 0.05; done', { timeoutMs: 30_000 })
  return 'http://127.0.0.1:8401/a.git'
}
const fillDisk = async () => {
  const { commands } = await sandbox()
  const script = readFileSync(new URL('../../framework/programs/fill_disk.sh', import.meta.url), 'utf8')
  await commands.run(script, { user: 'root', timeoutMs: 120_000 })
}

const faults = {
  AuthenticationError: async () => Sandbox.create({ apiKey: 'e2b_' + '0'.repeat(40) }),
  BuildError: async () => Template.build(Template().fromImage('debian'), 'base'),
  CommandExitError: async () => (await sandbox()).commands.run('echo oh >&2; exit 3'),
  FileNotFoundError: async () => (await sandbox()).files.read('nothing'),
  GitAuthError: async () => (await sandbox()).git.clone(await refusingGit(), { path: 'a' }),
  GitUpstreamError: async () => {
    const { git } = await sandbox()
    await git.init('w', { initialBranch: 'main' })
    await git.remoteAdd('w', 'origin', '/home/user/r.git')
    await git.pull('w')
  },
  InvalidArgumentError: async () => (await sandbox()).files.read('/home'),
  NotFoundError: async () => (await sandbox()).commands.connect(999_999),
  SandboxError: async () => Sandbox.create('nope'),
  SandboxNotFoundError: async () => Sandbox.getInfo(await ended()),
  SecretError: async () => Secret.list({ limit: 101 }).nextItems(),
  SecretNotFoundError: async () => Secret.getInfo('nothing'),
  TemplateError: async () => Template.getTags('nothing'),
  TimeoutError: async () => (await sandbox()).commands.run('sleep 30', { timeoutMs: 300 }),
  VolumeError: async () => Volume.create('no name'),
  VolumeNotFoundError: async () => Volume.getInfo(crypto.randomUUID()),
  VolumePathNotFoundError: async () => {
    const volume = await Volume.create('v' + crypto.randomUUID())
    try {
      await volume.readFile('/nothing')
    } finally {
      await Volume.destroy(volume.volumeId)
    }
  },
  NotEnoughSpaceError: async () => {
    await fillDisk()
    await (await sandbox()).files.write('big', new Blob([new Uint8Array(64 << 20)]))
  },
}
const elsewhere = {
  FileUploadError: async () =>
    Template.build(Template({ fileContextPath: process.cwd() }).fromImage('debian').copy('package.json', '/'), 'mine'),
  RateLimitError: async () => Sandbox.create({ retries: 0 }),
  ServiceBusyError: async () => Sandbox.create({ retries: 0 }),
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(faults)
const seen = {}
for (const name of wanted) {
  const error = await { ...faults, ...elsewhere }[name]().then(() => new Error('nothing'), (fault) => fault)
  const known = isError(e2b[name]) && Object.getPrototypeOf(error) === e2b[name].prototype
  seen[name] = [known ? error.name : error.constructor.name, error.message]
}
await made?.kill()
console.log(JSON.stringify({ exported: { e2b: exported(e2b), interpreter: exported(interpreter) }, seen }))
