// What a person can do to a sandbox, as calls of the public API.

import { type Listed, send } from './api'

const HOUR_S = 3600

export const changes = {
  prolong: (row: Listed) => send('POST', `/sandboxes/${row.sandboxID}/timeout`, {
    timeout: Math.max(0, Math.round((Date.parse(row.endAt) - Date.now()) / 1000)) + HOUR_S,
  }),
  pause: (row: Listed) => send('POST', `/sandboxes/${row.sandboxID}/pause`, {}),
  resume: (row: Listed) => send('POST', `/sandboxes/${row.sandboxID}/connect`, { timeout: HOUR_S }),
  fork: async (row: Listed) => {
    const copies = await send<{ sandbox?: { sandboxID: string }; error?: { message: string } }[]>('POST', `/sandboxes/${row.sandboxID}/fork`, { count: 1, timeout: HOUR_S })
    const error = copies?.find(copy => copy.error !== undefined)?.error
    if (error !== undefined) throw new Error(error.message)
    return copies?.[0]?.sandbox?.sandboxID
  },
  kill: (row: Listed) => send('DELETE', `/sandboxes/${row.sandboxID}`),
}
