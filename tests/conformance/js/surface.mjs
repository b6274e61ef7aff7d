// Calls every public method of the JavaScript SDK's sandbox; prints which were called, and how those that are not built are refused.
import { Sandbox } from '@e2b/code-interpreter'

const called = {}
const refused = {}
const watched = (name, object) =>
  new Proxy(object, {
    get(target, key) {
      const value = target[key]
      if (typeof value !== 'function') return value
      return (...args) => {
        called[name] = [...new Set([...(called[name] ?? []), key])]
        return value.apply(target, args)
      }
    },
  })
const refuse = async (name, promise) => {
  refused[name] = await Promise.resolve(promise).then(() => 'nothing', (error) => `${error.name}: ${error.message}`)
}
const expect = (truth, what) => {
  if (!truth) throw new Error(`not so: ${what}`)
}

const Static = watched('Sandbox', Sandbox)
const inner = await Static.create({ timeoutMs: 120_000 })
const sandbox = watched('Sandbox', inner)
const { sandboxId } = inner

expect(await sandbox.isRunning(), 'running')
expect((await sandbox.getInfo()).sandboxId === sandboxId, 'getInfo')
expect((await Static.getFullInfo(sandboxId)).sandboxId === sandboxId, 'getFullInfo')
await sandbox.setTimeout(300_000)
expect((await Static.list().nextItems()).some((one) => one.sandboxId === sandboxId), 'list')
expect((await sandbox.connect()).sandboxId === sandboxId, 'connect')
expect(Array.isArray(await sandbox.getMetrics()), 'getMetrics')
expect(sandbox.getHost(80).startsWith(`80-${sandboxId}.`), 'getHost')
expect(sandbox.getMcpUrl().endsWith('/mcp'), 'getMcpUrl')
await fetch(await sandbox.uploadUrl('up'), { method: 'POST', body: 'url', headers: { 'Content-Type': 'application/octet-stream' } })
expect((await (await fetch(await sandbox.downloadUrl('up'))).text()) === 'url', 'uploadUrl, downloadUrl')

expect((await sandbox.runCode('1 + 1')).text === '2', 'runCode')
const context = await sandbox.createCodeContext({ language: 'python' })
await sandbox.runCode('x = 1', { context })
await sandbox.restartCodeContext(context)
expect((await sandbox.runCode('x', { context })).error.name === 'NameError', 'restartCodeContext')
await sandbox.removeCodeContext(context)
expect(!(await sandbox.listCodeContexts()).some((one) => one.id === context.id), 'listCodeContexts')

const commands = watched('Commands', inner.commands)
const cat = watched('CommandHandle', await commands.run('cat', { background: true, stdin: true }))
expect((await commands.list()).some((one) => one.pid === cat.pid), 'list')
await commands.sendStdin(cat.pid, 'a')
await cat.sendStdin('b')
await cat.closeStdin()
expect((await cat.wait()).stdout === 'ab', 'stdin')
const other = await commands.run('cat', { background: true, stdin: true })
await commands.closeStdin(other.pid)
await other.wait()
const sleeper = watched('CommandHandle', await commands.run('sleep 100', { background: true }))
await sleeper.disconnect()
const again = await commands.connect(sleeper.pid)
expect(await sleeper.kill(), 'kill')
expect((await again.wait().catch((error) => error)).name === 'CommandExitError', 'killed')
expect(!(await commands.kill(sleeper.pid)), 'kill of what is gone')

const pty = watched('Pty', inner.pty)
let shown = ''
const onData = (data) => { shown += new TextDecoder().decode(data) }
const terminal = await pty.create({ rows: 10, cols: 20, onData })
await terminal.disconnect()
const terminalAgain = await pty.connect(terminal.pid, { onData })
await pty.resize(terminal.pid, { rows: 11, cols: 21 })
await pty.sendInput(terminal.pid, new TextEncoder().encode('stty size; exit\n'))
await terminalAgain.wait()
expect(shown.includes('11 21'), 'pty')
expect(!(await pty.kill(terminal.pid)), 'pty kill of what is gone')

const files = watched('Filesystem', inner.files)
await files.makeDir('d')
const events = []
const watch = watched('WatchHandle', await files.watchDir('d', (event) => { events.push(event.name) }))
await files.write('d/a', 'A')
await files.writeFiles([{ path: 'd/b', data: 'B' }])
await files.rename('d/b', 'd/c')
expect((await files.read('d/c')) === 'B', 'read')
expect((await files.getInfo('d/a')).size === 1, 'getInfo')
expect((await files.list('d')).map((one) => one.name).sort().join() === 'a,c', 'list')
await files.remove('d/c')
expect(!(await files.exists('d/c')), 'exists')
while (!events.includes('c')) await new Promise((resolve) => setTimeout(resolve, 20))
await watch.stop()

const git = watched('Git', inner.git)
await git.init('r.git', { bare: true })
await git.init('w', { initialBranch: 'main' })
await git.configureUser('A', 'a@example.com')
await git.setConfig('pull.rebase', 'false')
expect((await git.getConfig('user.name')) === 'A', 'getConfig')
await git.dangerouslyAuthenticate({ username: 'u', password: 'p', host: 'git.example.com' })
await files.write('w/f', '1')
await git.add('w')
await git.commit('w', 'one')
await git.remoteAdd('w', 'origin', '/home/user/r.git')
expect((await git.remoteGet('w', 'origin')) === '/home/user/r.git', 'remoteGet')
await git.push('w', { remote: 'origin', branch: 'main' })
await git.clone('/home/user/r.git', { path: 'c', branch: 'main' })
await git.pull('c')
await git.createBranch('w', 'b')
await git.checkoutBranch('w', 'main')
await git.deleteBranch('w', 'b')
expect((await git.branches('w')).branches.join() === 'main', 'branches')
await files.write('w/f', '2')
await git.add('w')
await git.restore('w', { paths: ['f'], staged: true, worktree: false })
await git.reset('w', { mode: 'hard' })
expect((await git.status('w')).isClean, 'status')

expect(await sandbox.pause(), 'pause')
await sandbox.connect()
expect(await sandbox.betaPause(), 'betaPause')
expect(!(await sandbox.isRunning()), 'paused')
await sandbox.connect()
const snapshot = await sandbox.createSnapshot()
const listed = (await sandbox.listSnapshots().nextItems()).map((one) => one.snapshotId)
expect(listed.includes(snapshot.snapshotId), 'listSnapshots')
expect(await Static.deleteSnapshot(snapshot.snapshotId), 'deleteSnapshot')
const [copy] = await sandbox.fork({ timeoutMs: 60_000, apiHeaders: { 'X-Fork-Memory': 'false' } })
expect(await copy.kill(), 'fork')
await sandbox.updateNetwork({ denyOut: ['192.0.2.1'] })
expect((await sandbox.getInfo()).network.denyOut[0] === '192.0.2.1', 'updateNetwork')
await refuse('getMcpToken', sandbox.getMcpToken())
await sandbox.kill()
expect(!(await inner.isRunning()), 'killed')
console.log(JSON.stringify({ called, refused }))
