// The program behind the ingress's tests: plain Node HTTP, on the sandbox's loopback only. Ports: 8002 on 127.0.0.1, 8003 on ::1.
import { createHash } from 'node:crypto'
import http from 'node:http'

const describe = (request, body) => ({
  method: request.method,
  url: request.url,
  headers: request.rawHeaders,
  peer: request.socket.remotePort,
  length: body.length,
  sha: createHash('sha256').update(body).digest('hex'),
})

async function whole(request) {
  const parts = []
  for await (const part of request) parts.push(part)
  return Buffer.concat(parts)
}

async function events(response) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' })
  for (let number = 0; number < 5; number++) {
    response.write(`data: ${number}\n\n`)
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  response.end()
}

function range(request, response) {
  const data = Buffer.alloc(1000, 'abcdefghij')
  const [, first, last] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '') ?? []
  if (first === undefined) return response.writeHead(200, { 'Accept-Ranges': 'bytes' }).end(data)
  const part = data.subarray(Number(first), Number(last) + 1)
  response.writeHead(206, { 'Content-Range': `bytes ${first}-${last}/1000`, 'Content-Length': part.length }).end(part)
}

function flood(url, response) {
  let left = Number(url.searchParams.get('size'))
  const block = Buffer.alloc(65536, 'z')
  response.writeHead(200, { 'Content-Length': left })
  const more = () => {
    while (left > 0) {
      const part = block.subarray(0, Math.min(left, block.length))
      left -= part.length
      if (!response.write(part)) return response.once('drain', more)
    }
    response.end()
  }
  more()
}

async function count(request, response) {
  let size = 0
  const hash = createHash('sha256')
  for await (const part of request) {
    size += part.length
    hash.update(part)
  }
  response.end(JSON.stringify({ size, sha: hash.digest('hex') }))
}

async function answer(request, response) {
  const url = new URL(request.url, 'http://inside')
  switch (url.pathname) {
    case '/events': return events(response)
    case '/range': return range(request, response)
    case '/flood': return flood(url, response)
    case '/count': return count(request, response)
    case '/duplex': return request.pipe(response)
    case '/trailers':
      response.writeHead(200, { Trailer: 'X-Sum', 'Transfer-Encoding': 'chunked' })
      response.write('body')
      response.addTrailers({ 'X-Sum': '42' })
      return response.end()
    case '/early':
      response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' })
      return setTimeout(() => response.end('after hints'), 50)
    case '/cors':
      response.setHeader('Access-Control-Allow-Origin', request.headers.origin ?? 'none')
      response.setHeader('Access-Control-Allow-Headers', 'x-mine')
      return response.writeHead(request.method === 'OPTIONS' ? 204 : 200).end()
    case '/large':
      return response.writeHead(200, { 'X-Large': 'l'.repeat(Number(url.searchParams.get('size'))) }).end()
    default: {
      const seen = describe(request, await whole(request))
      return response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(seen))
    }
  }
}

for (const [port, host] of [[8002, '127.0.0.1'], [8003, '::1']]) {
  const server = http.createServer({ maxHeaderSize: 1 << 18, keepAliveTimeout: 60000 }, answer)
  server.listen(port, host, () => console.log('listening', port))
}
