// The public API, with the session of the console in place of a key. The key itself is sent once, at the login, and kept nowhere here.

export interface Session {
  token: string
  tokenHeader: string
  scope: 'team' | 'admin'
  keyID: string
  keyName: string
  team: { teamID: string; name: string } | null
  domain: string
  version: string
}

export class ApiError extends Error {
  constructor(readonly status: number, message: string) {
    super(message)
  }
}

let session: Session | null = null
let loggedOut: (why: string) => void = () => undefined

export function onLoggedOut(listener: (why: string) => void): void {
  loggedOut = listener
}

export function current(): Session {
  if (session === null) throw new ApiError(401, 'log in first')
  return session
}

async function errorOf(answer: Response): Promise<ApiError> {
  const text = await answer.text()
  let message = text
  try {
    message = (JSON.parse(text) as { message?: string }).message ?? text
  } catch { /* an answer that is no JSON is shown as it is */ }
  return new ApiError(answer.status, message || answer.statusText)
}

async function ask(method: string, body?: unknown): Promise<Response> {
  const init: RequestInit = { method, credentials: 'same-origin', cache: 'no-store' }
  if (body !== undefined) {
    init.body = JSON.stringify(body)
    init.headers = { 'Content-Type': 'application/json' }
  }
  const answer = await fetch('/console/session', init)
  if (!answer.ok) throw await errorOf(answer)
  return answer
}

export async function resumeSession(): Promise<Session | null> {
  try {
    session = (await (await ask('GET')).json()) as Session
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 401)) throw error
    session = null
  }
  return session
}

export async function logIn(key: string): Promise<Session> {
  session = (await (await ask('POST', { key })).json()) as Session
  return session
}

export async function logOut(): Promise<void> {
  await ask('DELETE')
  session = null
  loggedOut('')
}

export interface Options {
  body?: unknown
  query?: Record<string, string | number | undefined>
  signal?: AbortSignal
}

export async function request(method: string, path: string, options: Options = {}): Promise<Response> {
  const { token, tokenHeader } = current()
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(options.query ?? {})) if (value !== undefined && value !== '') query.set(name, String(value))
  const headers: Record<string, string> = { [tokenHeader]: token }
  const init: RequestInit = { method, headers, credentials: 'same-origin', cache: 'no-store' }
  if (options.signal !== undefined) init.signal = options.signal
  if (options.body !== undefined) {
    headers['Content-Type'] = 'application/json'
    init.body = JSON.stringify(options.body)
  }
  const answer = await fetch(query.size > 0 ? `${path}?${query.toString()}` : path, init)
  if (answer.ok) return answer
  const error = await errorOf(answer)
  if (answer.status === 401 && session !== null) {
    session = null
    loggedOut(error.message)
  }
  throw error
}

export async function get<T>(path: string, query: Options['query'] = {}, signal?: AbortSignal): Promise<T> {
  return (await (await request('GET', path, signal === undefined ? { query } : { query, signal })).json()) as T
}

export async function send<T>(method: string, path: string, body?: unknown): Promise<T | null> {
  const answer = await request(method, path, body === undefined ? {} : { body })
  const text = await answer.text()
  return text === '' ? null : (JSON.parse(text) as T)
}

// Every page of a list; the token of the next one is in a header. `sofar` gets what has come after each page.
export async function pages<T>(path: string, query: Options['query'], signal?: AbortSignal, sofar?: (all: T[]) => void): Promise<T[]> {
  const all: T[] = []
  let nextToken: string | undefined
  do {
    const answer = await request('GET', path, { query: { ...query, nextToken }, ...(signal === undefined ? {} : { signal }) })
    all.push(...((await answer.json()) as T[]))
    nextToken = answer.headers.get('X-Next-Token') ?? undefined
    sofar?.([...all])
  } while (nextToken !== undefined)
  return all
}

export interface Listed {
  sandboxID: string
  templateID: string
  alias?: string
  startedAt: string
  endAt: string
  cpuCount: number
  memoryMB: number
  diskSizeMB: number
  metadata?: Record<string, string>
  state: 'running' | 'paused'
  runtime?: string
  teamID?: string
}

export interface Detail extends Listed {
  envdAccessToken?: string
  domain: string | null
  network?: { allowPublicTraffic?: boolean }
  lifecycle?: { autoResume: boolean; onTimeout: string }
  pauseMode?: string
}

export interface Metric {
  timestampUnix: number
  cpuUsedPct: number
  cpuCount: number
  memUsed: number
  memTotal: number
  diskUsed: number
  diskTotal: number
}

export interface LogEntry {
  timestamp: string
  message: string
  level: string
}
