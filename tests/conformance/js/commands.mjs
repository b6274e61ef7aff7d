// Drives commands and terminals of the unmodified JavaScript SDK against the server that the environment names; prints what it saw as JSON.
import { Sandbox } from 'e2b'

const seen = {}
const failure = (promise) => promise.then(() => 'nothing', (error) => error)
const sandbox = await Sandbox.create('base', { timeoutMs: 120_000, envs: { SHARED: 'sandbox' } })
const { commands, pty } = sandbox

seen.result = await commands.run('echo "$SHARED $CALL $(id -un) $PWD"; echo err >&2', { envs: { CALL: "it's é" }, cwd: '/tmp' })
const failed = await failure(commands.run('echo out; exit 3'))
seen.failed = [failed.name, failed.exitCode, failed.stdout, failed.error]
seen.root = (await commands.run('id -u', { user: 'root' })).stdout
seen.unknownUser = (await failure(commands.run('true', { user: 'nobody-here' }))).name
seen.wrongDirectory = (await failure(commands.run('true', { cwd: '/no/such' }))).name
const text = '中\n'.repeat(1_000_000)
seen.long = (await commands.run(`cat > long <<'EOF'\n${text}EOF\nwc -c < long`)).stdout
seen.tooLong = (await failure(commands.run('#'.repeat(17 * 2 ** 20)))).name
seen.timeout = (await failure(commands.run('sleep 30', { timeoutMs: 700 }))).name

const chunks = []
await commands.run('for i in 1 2 3; do echo $i; sleep 0.2; done', { onStdout: (text) => chunks.push(text) })
seen.chunks = chunks

const cat = await commands.run('cat; echo end', { background: true, stdin: true })
seen.listed = (await commands.list()).some((one) => one.pid === cat.pid)
const other = await commands.connect(cat.pid)
await commands.sendStdin(cat.pid, 'één\n')
await commands.sendStdin(cat.pid, 'two\n')
await commands.closeStdin(cat.pid)
seen.followed = [(await cat.wait()).stdout, (await other.wait()).stdout]

const sleeping = await commands.run('sleep 60', { background: true })
seen.killed = [await sleeping.kill(), await sleeping.kill()]
const ended = await failure(sleeping.wait())
seen.killedError = [ended.name, ended.exitCode, ended.error]
seen.large = (await commands.run('seq 1 500000')).stdout.length

let shown = ''
const decoder = new TextDecoder()
const terminal = await pty.create({ cols: 80, rows: 24, onData: (data) => { shown += decoder.decode(data, { stream: true }) } })
await pty.resize(terminal.pid, { cols: 132, rows: 43 })
await pty.sendInput(terminal.pid, new TextEncoder().encode('stty size; echo =$((40+2))=$TERM=; exit 5\n'))
seen.terminalExit = (await failure(terminal.wait())).exitCode
seen.terminal = ['43 132', '=42=xterm-256color='].map((text) => shown.includes(text))
await sandbox.kill()
console.log(JSON.stringify(seen))
