// Vercel AI SDK: a model with one tool, which runs Python in a sandbox through @e2b/code-interpreter.
//
//     npm ci && node agent.mjs              the model plays a script
//     OPENAI_API_KEY=... node agent.mjs     the same with a real model
import { openai } from '@ai-sdk/openai'
import { Sandbox } from '@e2b/code-interpreter'
import { generateText, stepCountIs, tool } from 'ai'
import { MockLanguageModelV3 } from 'ai/test'
import { z } from 'zod'

const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } }
const call = (number, code) => ({
  content: [{ type: 'tool-call', toolCallId: `${number}`, toolName: 'runPython', input: JSON.stringify({ code }) }],
  finishReason: { unified: 'tool-calls' }, usage, warnings: [],
})
const script = [
  call(1, 'import numpy as np\nrng = np.random.default_rng(7)\nx = rng.normal(size=100_000)\nx.mean().round(2), x.std().round(2)'),
  call(2, 'float((abs(x) > 1.96).mean().round(3))'),
  { content: [{ type: 'text', text: 'About one in twenty.' }], finishReason: { unified: 'stop' }, usage, warnings: [] },
]

const sandbox = await Sandbox.create({ timeoutMs: 300_000 })
try {
  const { text } = await generateText({
    model: process.env.OPENAI_API_KEY ? openai('gpt-5-mini') : new MockLanguageModelV3({ doGenerate: script }),
    prompt: 'Draw 100,000 normal numbers. What share of them is farther from 0 than 1.96?',
    stopWhen: stepCountIs(10),
    tools: {
      runPython: tool({
        description: 'Run Python; variables are kept between calls.',
        inputSchema: z.object({ code: z.string() }),
        execute: async ({ code }) => {
          const run = await sandbox.runCode(code)
          const said = run.error ? run.error.traceback : [...run.logs.stdout, run.text].join('')
          console.log(`ran ${JSON.stringify(code)}: ${said}`)
          return said
        },
      }),
    },
  })
  console.log(`answer: ${text}`)
} finally {
  await sandbox.kill()
}
