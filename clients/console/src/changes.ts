// What a person can do to a sandbox, as calls of the public API.

import { type Listed, send } from './api'

const HOUR_S = 3600

export const changes = {
  prolong: (row: Listed) => send('POST', `/sandboxes/${row.sandboxID}/timeout`, {
    timeout: Math.max(0, Math.round((Date.parse(row.endAt) - Date.now()) / 1000)) + HOUR_S,
  }),
  pause: (row: Listed) => send('POST', `/sandboxes/${row.sandboxID}/pause`, {}),
  resume: (row: Listed) => send('POST', `/sandboxes/${row.sandboxID}/connect`, { timeout: HOUR_S }),
  // With its memory and processes, where the server can; the other one copies the files alone.
  fork: (row: Listed) => copy(row, {}),
  forkFiles: (row: Listed) => copy(row, { memory: false }),
  kill: (row: Listed) => send('DELETE', `/sandboxes/${row.sandboxID}`),
}

async function copy(row: Listed, more: object): Promise<string | undefined> {
  const copies = await send<{ sandbox?: { sandboxID: string }; error?: { message: string } }[]>('POST', `/sandboxes/${row.sandboxID}/fork`, { count: 1, timeout: HOUR_S, ...more })
  const error = copies?.find(one => one.error !== undefined)?.error
  if (error !== undefined) throw new Error(error.message)
  return copies?.[0]?.sandbox?.sandboxID
}
