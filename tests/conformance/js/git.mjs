// Every git helper of the JavaScript SDK, against the server that the environment names; prints what it saw as one JSON object.
import { Sandbox } from 'e2b'

const { GIT_URL: url, GIT_USER: username, GIT_PASSWORD: password } = process.env
const seen = {}
const nameOf = (promise) => promise.then(() => 'nothing', (error) => error.name)
const sandbox = await Sandbox.create('base', { timeoutMs: 120_000 })
const { git } = sandbox
const shell = async (command) => (await sandbox.commands.run(command)).stdout

await git.init('work', { initialBranch: 'main' })
await shell('echo one > work/a.txt')
const status = await git.status('work')
seen.status = { branch: status.currentBranch, untracked: status.hasUntracked }
await git.add('work')
await git.configureUser('Ada', 'ada@example.com')
await git.commit('work', 'first')
await git.createBranch('work', 'side')
seen.branches = await git.branches('work')
await git.commit('work', 'second', { allowEmpty: true })
await git.checkoutBranch('work', 'main')
seen.undeleted = await nameOf(git.deleteBranch('work', 'side'))
await git.deleteBranch('work', 'side', { force: true })
await shell('echo other > work/a.txt')
await git.add('work', { files: ['a.txt'] })
await git.restore('work', { paths: ['a.txt'], staged: true, worktree: true })
await shell('echo other > work/a.txt')
await git.reset('work', { mode: 'hard', target: 'HEAD' })
seen.afterReset = await shell('cat work/a.txt')
await git.setConfig('pull.rebase', 'false')
seen.config = [await git.getConfig('user.name'), (await git.getConfig('no.such')) ?? null]
await git.remoteAdd('work', 'origin', url)
seen.remote = [await git.remoteGet('work', 'origin'), (await git.remoteGet('work', 'other')) ?? null]
seen.noUpstream = await nameOf(git.pull('work'))
seen.noPassword = await nameOf(git.push('work', { remote: 'origin', branch: 'main' }))
seen.noUser = await nameOf(git.push('work', { password }))
await git.push('work', { remote: 'origin', branch: 'main', username, password })
await git.clone(url, { path: 'copy', username, password })
seen.cloned = await shell('cat copy/a.txt')
await shell('echo two > work/a.txt')
await git.add('work')
await git.commit('work', 'third')
await git.push('work', { username, password })
await git.pull('copy', { username, password })
seen.pulled = await shell('cat copy/a.txt')
seen.ahead = (await git.status('copy')).ahead
await git.dangerouslyAuthenticate({ username, password, host: 'git.example.com' })
await git.clone(url, { path: 'again' })
seen.authenticated = await shell('cat again/a.txt')
await sandbox.kill()
console.log(JSON.stringify(seen))
