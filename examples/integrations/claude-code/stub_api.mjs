// A stub of Anthropic's Messages API: answers each turn of a conversation by the next line of a script, streamed or whole.
import { createServer } from 'node:http'

const use = (id, name, input) => ({ type: 'tool_use', id, name, input })
const script = [
  use('toolu_1', 'Write', { file_path: '/home/user/hello.py', content: "print('hello from the sandbox')\n" }),
  use('toolu_2', 'Bash', { command: 'python3 /home/user/hello.py', description: 'Run it' }),
  { type: 'text', text: 'It printed: hello from the sandbox' },
]

function answer(request) {
  const turns = request.messages.filter(message => message.role === 'assistant').length
  const block = request.tools?.length ? script[Math.min(turns, script.length - 1)] : { type: 'text', text: 'ok' }
  return {
    id: `msg_${turns}`, type: 'message', role: 'assistant', model: request.model, content: [block],
    stop_reason: block.type === 'tool_use' ? 'tool_use' : 'end_turn', stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 },
  }
}

function* events(message) {
  const [block] = message.content
  yield { type: 'message_start', message: { ...message, content: [], stop_reason: null } }
  yield { type: 'content_block_start', index: 0, content_block: block.type === 'text' ? { ...block, text: '' } : { ...block, input: {} } }
  const delta = block.type === 'text' ? { type: 'text_delta', text: block.text } : { type: 'input_json_delta', partial_json: JSON.stringify(block.input) }
  yield { type: 'content_block_delta', index: 0, delta }
  yield { type: 'content_block_stop', index: 0 }
  yield { type: 'message_delta', delta: { stop_reason: message.stop_reason, stop_sequence: null }, usage: { output_tokens: 1 } }
  yield { type: 'message_stop' }
}

createServer(async (request, response) => {
  let body = ''
  for await (const part of request) body += part
  console.log(request.method, request.url)
  if (request.url.includes('count_tokens')) return response.end(JSON.stringify({ input_tokens: 1 }))
  if (!request.url.startsWith('/v1/messages')) return response.end('{}')
  const asked = JSON.parse(body)
  const message = answer(asked)
  if (!asked.stream) return response.setHeader('content-type', 'application/json').end(JSON.stringify(message))
  response.setHeader('content-type', 'text/event-stream')
  for (const event of events(message)) response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
  response.end()
}).listen(8080, '127.0.0.1')
