// What was recorded about a sandbox: its log and its connections. Both outlive it.

import { useRef, useState } from 'preact/hooks'
import { type LogEntry, get } from './api'
import { Problem, bytes, clock, usePolled } from './parts'

const KEPT = 5000

export function Logs({ id, shown }: { id: string; shown: boolean }) {
  const [entries, setEntries] = useState<LogEntry[]>([])
  const [level, setLevel] = useState('info')
  const [search, setSearch] = useState('')
  const cursor = useRef({ of: '', at: 0 })
  const [problem] = usePolled(async signal => {
    if (!shown) return
    const of = `${level} ${search}`
    const isNew = cursor.current.of !== of
    const at = isNew ? 0 : cursor.current.at
    const { logs } = await get<{ logs: LogEntry[] }>(`/v2/sandboxes/${id}/logs`, { cursor: at, level, search }, signal)
    const last = logs.at(-1)
    cursor.current = { of, at: last === undefined ? at : Date.parse(last.timestamp) + 1 }
    if (isNew || logs.length > 0) setEntries(old => [...(isNew ? [] : old), ...logs].slice(-KEPT))
  }, 2000, [id, level, search, shown])
  return (
    <>
      <div class="bar">
        <label>Level <select value={level} onChange={event => setLevel(event.currentTarget.value)}>{['debug', 'info', 'warn', 'error'].map(one => <option key={one}>{one}</option>)}</select></label>
        <label>Search <input type="search" value={search} onInput={event => setSearch(event.currentTarget.value)} /></label>
      </div>
      <Problem text={problem} />
      <Lines entries={entries} label="Log" />
    </>
  )
}

// Lines that stay at the end while the reader is there.
export function Lines({ entries, label }: { entries: LogEntry[]; label: string }) {
  const atEnd = useRef(true)
  return (
    <div class="log" role="log" aria-label={label} tabIndex={0}
      onScroll={event => { const box = event.currentTarget; atEnd.current = box.scrollHeight - box.scrollTop - box.clientHeight < 30 }}
      ref={box => { if (box !== null && atEnd.current) box.scrollTop = box.scrollHeight }}>
      {entries.map((entry, index) => <div key={index} class={`level-${entry.level}`}><time>{clock(entry.timestamp)}</time> <span class="level">{entry.level}</span> {entry.message}</div>)}
    </div>
  )
}

interface Connection {
  timestamp: string
  protocol: string | null
  address: string | null
  port: number | null
  name: string | null
  nameFrom: string | null
  verdict: string
  rule: string
  sentBytes: number
  receivedBytes: number
  count: number
}

export function Network({ id, shown }: { id: string; shown: boolean }) {
  const [found, setFound] = useState<Connection[]>([])
  const [verdict, setVerdict] = useState('')
  const [problem] = usePolled(async signal => {
    if (shown) setFound(await get<Connection[]>(`/sandboxes/${id}/connections`, { verdict, limit: 1000 }, signal))
  }, 3000, [id, verdict, shown])
  return (
    <>
      <div class="bar"><label>Verdict <select value={verdict} onChange={event => setVerdict(event.currentTarget.value)}>
        <option value="">all</option><option>allowed</option><option>refused</option></select></label></div>
      <Problem text={problem} />
      <div class="wide" tabIndex={0} role="region" aria-label="Connections"><table>
        <thead><tr>{['Time', 'To', 'Port', 'Protocol', 'Verdict', 'Rule', 'Sent', 'Received', 'Count'].map(name => <th scope="col" key={name}>{name}</th>)}</tr></thead>
        <tbody>{[...found].reverse().map((one, index) => (
          <tr key={index}><td>{clock(one.timestamp)}</td><td>{one.name === null ? one.address : one.nameFrom === 'lookup' ? `${one.name} (looked up)` : one.name}</td><td>{one.port}</td><td>{one.protocol}</td>
            <td class={`verdict-${one.verdict}`}>{one.verdict}</td><td>{one.rule}</td><td>{bytes(one.sentBytes)}</td><td>{bytes(one.receivedBytes)}</td><td>{one.count}</td></tr>
        ))}</tbody>
      </table></div>
      {found.length === 0 && <p class="hint">No connection is recorded.</p>}
    </>
  )
}
