// Mastra: a workspace whose sandbox is paused when the workspace stops, and found again by its id, with its files and processes.
//
//     npm ci && node agent.mjs              the model plays a script
//     OPENAI_API_KEY=... node agent.mjs     the same with a real model
import { Agent } from '@mastra/core/agent'
import { MastraLanguageModelV2Mock } from '@mastra/core/test-utils/llm-mock'
import { Workspace } from '@mastra/core/workspace'
import { E2BSandbox } from '@mastra/e2b'
import { Sandbox } from 'e2b'

const counter = 'while sleep 0.25; do echo tick >> counter.txt; done'
const start = `echo '${counter}' > counter.sh; setsid bash counter.sh > /dev/null 2>&1 & sleep 1; echo started`
const look = 'pgrep -f counter.sh > /dev/null && echo it still runs; test -s counter.txt && echo it has written'
const turns = [
  ['Start a counter in the background that adds a line to counter.txt four times a second.', [start, 'It counts.']],
  ['Does the counter still run?', [look, 'It does.']],
]

const usage = { inputTokens: 1, outputTokens: 1, totalTokens: 2 }
const scripted = ([command, text]) => {
  const input = JSON.stringify({ command })
  const call = { type: 'tool-call', toolCallId: 'one', toolName: 'mastra_workspace_execute_command', input }
  const answers = [
    { content: [call], finishReason: 'tool-calls', usage, warnings: [] },
    { content: [{ type: 'text', text }], finishReason: 'stop', usage, warnings: [] },
  ]
  return new MastraLanguageModelV2Mock({ doGenerate: async () => answers.shift() })
}

// Each turn could be a program of its own: only the id connects them.
for (const [task, script] of turns) {
  const sandbox = new E2BSandbox({ id: 'counter-of-ada', template: 'base', timeout: 300_000 })
  const workspace = new Workspace({ sandbox })
  await workspace.init()
  const agent = new Agent({
    id: 'counter',
    name: 'counter',
    instructions: 'Use the shell.',
    model: process.env.OPENAI_API_KEY ? 'openai/gpt-5-mini' : scripted(script),
    workspace,
  })
  const { text, toolResults } = await agent.generate(task)
  for (const { payload } of toolResults) console.log(`the shell said: ${payload.result}`)
  console.log(`answer: ${text}`)
  const { sandboxId } = sandbox.e2b
  await sandbox.stop() // pauses it
  console.log(`between the turns: ${(await Sandbox.getInfo(sandboxId)).state}`)
}

const paused = await Sandbox.list({ query: { metadata: { 'mastra-sandbox-id': 'counter-of-ada' }, state: ['paused'] } }).nextItems()
console.log(`sandboxes: ${paused.length}`)
for (const { sandboxId } of paused) await Sandbox.kill(sandboxId)
