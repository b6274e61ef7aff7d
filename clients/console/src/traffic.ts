// Requests to a sandbox itself, through the ingress on this origin: files, processes and code. They carry the sandbox's tokens and no cookie.

import { ApiError, type Detail, get, send } from './api'

const AGENT = 49983
const INTERPRETER = 49999
const HEAD = 5
const END = 2

export interface Access {
  sandboxID: string
  token: string | undefined
  trafficToken: string | undefined
}

export async function accessTo(sandboxID: string): Promise<Access> {
  const detail = await get<Detail>(`/sandboxes/${sandboxID}`)
  if (detail.network?.allowPublicTraffic !== false) return { sandboxID, token: detail.envdAccessToken, trafficToken: undefined }
  // The token of a sandbox without public traffic is in the answer to a connecting client. One second never shortens a lifetime.
  const created = await send<{ trafficAccessToken?: string }>('POST', `/sandboxes/${sandboxID}/connect`, { timeout: 1 })
  return { sandboxID, token: detail.envdAccessToken, trafficToken: created?.trafficAccessToken }
}

async function reach(access: Access, port: number, method: string, path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers)
  headers.set('E2b-Sandbox-Id', access.sandboxID)
  headers.set('E2b-Sandbox-Port', String(port))
  if (access.token !== undefined) headers.set('X-Access-Token', access.token)
  if (access.trafficToken !== undefined) headers.set('E2b-Traffic-Access-Token', access.trafficToken)
  if (port === AGENT) headers.set('Authorization', `Basic ${btoa('user:')}`)
  const answer = await fetch(path, { ...init, method, headers, credentials: 'omit', cache: 'no-store', redirect: 'error' })
  if (answer.ok) return answer
  const text = await answer.text()
  let message = text
  try {
    const body = JSON.parse(text) as { message?: string; reason?: string }
    message = [body.message, body.reason].filter(part => part !== undefined).join(': ')
  } catch { /* the interpreter answers in plain text */ }
  throw new ApiError(answer.status, message || answer.statusText)
}

async function* chunks(answer: Response): AsyncGenerator<Uint8Array> {
  const reader = answer.body!.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      yield value
    }
  } finally {
    void reader.cancel().catch(() => undefined)
  }
}

export async function rpc<T>(access: Access, method: string, message: unknown): Promise<T> {
  const init = { body: JSON.stringify(message), headers: { 'Content-Type': 'application/json', 'Connect-Protocol-Version': '1' } }
  return (await (await reach(access, AGENT, 'POST', `/${method}`, init)).json()) as T
}

// A stream of Connect RPC: each message has a byte of flags and its length before it.
export async function* stream<T>(access: Access, method: string, message: unknown, signal: AbortSignal): AsyncGenerator<T> {
  const json = new TextEncoder().encode(JSON.stringify(message))
  const body = new Uint8Array(HEAD + json.length)
  new DataView(body.buffer).setUint32(1, json.length)
  body.set(json, HEAD)
  const headers = { 'Content-Type': 'application/connect+json', 'Connect-Protocol-Version': '1', 'Keepalive-Ping-Interval': '50' }
  const answer = await reach(access, AGENT, 'POST', `/${method}`, { body, headers, signal })
  let held = new Uint8Array(0)
  for await (const chunk of chunks(answer)) {
    const joined = new Uint8Array(held.length + chunk.length)
    joined.set(held)
    joined.set(chunk, held.length)
    held = joined
    while (held.length >= HEAD) {
      const length = new DataView(held.buffer, held.byteOffset).getUint32(1)
      if (held.length < HEAD + length) break
      const flags = held[0]!
      const read = JSON.parse(new TextDecoder().decode(held.subarray(HEAD, HEAD + length))) as T & { error?: { message?: string } }
      held = held.slice(HEAD + length)
      if ((flags & END) === 0) yield read as Awaited<T>
      else if (read.error !== undefined) throw new ApiError(500, read.error.message ?? 'the stream failed')
      else return
    }
  }
}

export interface Output {
  type: string
  text?: string
  png?: string
  jpeg?: string
  svg?: string
  html?: string
  markdown?: string
  json?: unknown
  name?: string
  value?: string
  traceback?: string
}

export async function* execute(access: Access, code: string, language: string, signal: AbortSignal): AsyncGenerator<Output> {
  const init = { body: JSON.stringify({ code, language }), headers: { 'Content-Type': 'application/json' }, signal }
  const answer = await reach(access, INTERPRETER, 'POST', '/execute', init)
  const decoder = new TextDecoder()
  let held = ''
  for await (const chunk of chunks(answer)) {
    held += decoder.decode(chunk, { stream: true })
    const lines = held.split('\n')
    held = lines.pop()!
    for (const line of lines) if (line.trim() !== '') yield JSON.parse(line) as Output
  }
}

export interface Entry {
  name: string
  path: string
  type?: string
  size?: string
  modifiedTime?: string
}

export async function list(access: Access, path: string): Promise<Entry[]> {
  const { entries } = await rpc<{ entries?: Entry[] }>(access, 'filesystem.Filesystem/ListDir', { path, depth: 1 })
  return entries ?? []
}

export async function download(access: Access, path: string): Promise<Blob> {
  return (await reach(access, AGENT, 'GET', `/files?${new URLSearchParams({ path, username: 'user' }).toString()}`)).blob()
}

export async function upload(access: Access, path: string, file: File): Promise<void> {
  const form = new FormData()
  form.append('file', file, file.name)
  await reach(access, AGENT, 'POST', `/files?${new URLSearchParams({ path, username: 'user' }).toString()}`, { body: form })
}
