// Drives the unmodified JavaScript SDK's template builder against the server that the environment names; prints what it saw as one JSON object.
// The first argument is a directory with `one.txt` and the directory `app`, the second a name that no template has.
import { Sandbox, Template } from 'e2b'

const [, , files, name] = process.argv
const seen = {}
const nameOf = (promise) => promise.then(() => 'nothing', (error) => error.name)
const messageOf = (promise) => promise.then(() => 'nothing', (error) => error.message)

const logs = []
const template = Template({ fileContextPath: files })
  .fromImage('debian:12')
  .copy('one.txt', '/app/', { user: 'root', mode: 0o755 })
  .copy('app', '/app/tree')
  .copy('app/*', '/app/files', { resolveSymlinks: true })
  .runCmd('echo hello')
  .setWorkdir('/app')
  .setUser('root')
  .setEnvs({ A: '1' })
  .setStartCmd('serve', 'ready')
const built = await Template.build(template, `${name}:v1`, {
  tags: ['stable'], cpuCount: 1, memoryMB: 512, onBuildLogs: (entry) => logs.push(entry.message),
})
seen.built = built
seen.hellos = logs.filter((message) => message === '[4] RUN echo hello').length
const again = []
await Template.build(template, `${name}:v1`, { onBuildLogs: (entry) => again.push(entry.message) })
seen.skipped = again.filter((message) => message.startsWith('Skipping upload of')).length
seen.exists = [await Template.exists(name), await Template.exists(`${name}-not`)]

const background = await Template.buildInBackground(Template().fromImage('debian').runCmd('exit 3'), `${name}-bad`)
let status
do { status = await Template.getBuildStatus(background) } while (status.status !== 'error' && status.status !== 'ready')
seen.failed = { status: status.status, message: status.reason.message, step: status.reason.step }
seen.failure = await nameOf(Template.build(Template().fromImage('debian').runCmd('exit 3'), `${name}-bad`))
seen.stack = await Template.build(Template().fromImage('debian').runCmd('exit 3'), `${name}-bad`).catch((error) => error.stack.includes('templates.mjs'))
seen.refused = await messageOf(Template.build(Template().fromImage('debian'), 'base'))
const accessKey = { accessKeyId: 'a', secretAccessKey: 's', region: 'eu-west-1' }
seen.amazon = await Template.build(Template().fromAWSRegistry('1.dkr.ecr.eu-west-1.amazonaws.com/x', accessKey), `${name}-aws`)
seen.notAmazon = await messageOf(Template.build(Template().fromAWSRegistry('r.example/x', accessKey), `${name}-aws`))

seen.assigned = await Template.assignTags(`${name}:v1`, ['prod'])
seen.tags = (await Template.getTags(name)).map((tag) => tag.tag).sort()
await Template.removeTags(name, ['prod', 'stable'])
seen.tagsAfter = (await Template.getTags(name)).map((tag) => tag.tag)
seen.unknownTag = await nameOf(Template.assignTags(`${name}:prod`, ['x']))

const sandbox = await Sandbox.create(`${name}:v1`)
seen.sandbox = (await sandbox.getInfo()).templateId
const snapshot = await sandbox.createSnapshot({ name: `${name}-snap` })
seen.snapshot = snapshot
seen.listed = (await Sandbox.listSnapshots({ sandboxId: sandbox.sandboxId }).nextItems()).map((one) => one.snapshotId)
const copy = await Sandbox.create(snapshot.snapshotId)
await copy.kill()
await sandbox.kill()
seen.deleted = [await Sandbox.deleteSnapshot(snapshot.snapshotId), await Sandbox.deleteSnapshot(snapshot.snapshotId)]
seen.wrongKey = await nameOf(Template.exists(name, { apiKey: 'e2b_' + '0'.repeat(40) }))
console.log(JSON.stringify(seen))
