// Works on files where only root may, without naming a user, and then as the user `user`; prints what it saw as JSON.
import { Sandbox } from 'e2b'

const told = (promise) => promise.then(() => 'nothing', (error) => `${error.name} ${/permission denied/.exec(error.message)}`)

const sandbox = await Sandbox.create('base', { timeoutMs: 120_000 })
const { files } = sandbox
const seen = {}
for (const place of ['/app', '/opt/app', '/root/app']) {
  const saw = (seen[place] = {})
  await files.write(`${place}/d/main.py`, '1')
  saw.read = await files.read(`${place}/d/main.py`)
  saw.listed = (await files.list(`${place}/d`)).map((entry) => entry.name)
  saw.made = await files.makeDir(`${place}/made/below`)
  saw.renamed = (await files.rename(`${place}/d/main.py`, `${place}/moved/b`)).owner
  await files.write([{ path: `${place}/p1`, data: 'ab' }, { path: `${place}/p2`, data: 'c' }])
  const url = new URL('/files/compose', await sandbox.uploadUrl('x'))
  const headers = { 'Content-Type': 'application/json', 'X-Access-Token': sandbox.envdAccessToken ?? '', 'E2b-Sandbox-Id': sandbox.sandboxId }
  const body = JSON.stringify({ source_paths: [`${place}/p1`, `${place}/p2`], destination: `${place}/all` })
  const answer = await fetch(url, { method: 'POST', body, headers: { ...headers, 'E2b-Sandbox-Port': '49983' } })
  saw.composed = answer.ok ? await files.read(`${place}/all`) : await answer.text()
  const paths = ['', '/d', '/made', '/moved', '/moved/b', '/all'].map((path) => place + path).join(' ')
  saw.owners = (await sandbox.commands.run(`stat -c '%U:%G %a' ${paths}`, { user: 'root' })).stdout.trim().split('\n')
  await sandbox.commands.run(`chown -R root: ${place} && chmod 700 ${place}`, { user: 'root' })
  const user = { user: 'user' }
  saw.refused = [
    await told(files.read(`${place}/all`, user)),
    await told(files.write(`${place}/all`, 'x', user)),
    await told(files.list(place, user)),
    await told(files.makeDir(`${place}/x`, user)),
    await told(files.rename(`${place}/all`, '/home/user/all', user)),
    await told(files.remove(`${place}/all`, user)),
    await told(files.watchDir(place, () => {}, user)),
  ]
  await files.remove(place)
  saw.gone = await files.exists(place)
}
await sandbox.kill()
console.log(JSON.stringify(seen))
