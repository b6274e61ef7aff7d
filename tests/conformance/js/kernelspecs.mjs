// Uses the language `ipy`, a Jupyter kernel, of the sandbox that the argument names; prints what it saw as one JSON object.
import { Sandbox } from '@e2b/code-interpreter'

const seen = {}
const sandbox = await Sandbox.connect(process.argv[2])
const options = { language: 'ipy' }
await sandbox.runCode('kept = 41', options)
seen.lines = []
await sandbox.runCode('print(kept + 1)', { ...options, onStdout: (message) => seen.lines.push(message.line) })
seen.text = (await sandbox.runCode('kept', options)).text
seen.html = (await sandbox.runCode("from IPython.display import HTML\nHTML('<b>h</b>')", options)).results[0].html
seen.error = (await sandbox.runCode('1/0', options)).error.name
const context = await sandbox.createCodeContext({ language: 'ipy', cwd: '/tmp' })
seen.context = [context.language, (await sandbox.runCode('import os; os.getcwd()', { context })).text]
await sandbox.removeCodeContext(context)
seen.timeout = await sandbox.runCode('while True: pass', { ...options, timeoutMs: 1500 }).then(
  () => 'nothing',
  (error) => error.name
)
seen.after = (await sandbox.runCode('kept', options)).text
console.log(JSON.stringify(seen))
