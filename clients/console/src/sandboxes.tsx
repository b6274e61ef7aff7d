// The list of live sandboxes. Only the rows in view are in the document, so that a thousand scroll smoothly.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { type Listed, type Metric, type Session, get, pages, request } from './api'
import { changes } from './changes'
import { Action, Confirm, Metadata, Problem, bytes, since, until, usePolled } from './parts'

const ROW = 40
const SPARE = 8
const ROUND_MS = 5000
const METRICS_AT_ONCE = 100

// Words "name=value" are metadata, and the server filters by them; the others are a part of an id or of a template's name.
function parse(filter: string): { metadata: string; words: string[] } {
  const all = filter.trim().split(/\s+/).filter(word => word !== '')
  const metadata = all.filter(word => /^[^=]+=[^=]*$/.test(word)).map(word => word.split('=').map(encodeURIComponent).join('=')).join('&')
  return { metadata, words: all.filter(word => !word.includes('=')).map(word => word.toLowerCase()) }
}

function useWindow(count: number) {
  const body = useRef<HTMLDivElement>(null)
  const [top, setTop] = useState(0)
  const [height, setHeight] = useState(600)
  useEffect(() => {
    const box = body.current!
    const look = () => {
      setTop(Math.floor(box.scrollTop / ROW))
      setHeight(box.clientHeight)
    }
    look()
    box.addEventListener('scroll', look, { passive: true })
    const observer = new ResizeObserver(look)
    observer.observe(box)
    return () => {
      box.removeEventListener('scroll', look)
      observer.disconnect()
    }
  }, [])
  const first = Math.max(0, Math.min(top, count - 1) - SPARE)
  return { body, first, last: Math.min(count, first + Math.ceil(height / ROW) + 2 * SPARE) }
}

export function Sandboxes({ session }: { session: Session }) {
  const isAdmin = session.scope === 'admin'
  const [filter, setFilter] = useState('')
  const [state, setState] = useState('')
  const [rows, setRows] = useState<Listed[] | null>(null)
  const [metrics, setMetrics] = useState<Record<string, Metric>>({})
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set())
  const [problem, setProblem] = useState('')
  const [asking, setAsking] = useState(false)
  const isFirst = useRef(true)
  const { metadata, words } = useMemo(() => parse(filter), [filter])
  const [failed, refresh] = usePolled(async signal => {
    // The first time, each page is shown as it comes.
    const show = isFirst.current ? setRows : undefined
    setRows(await pages<Listed>(isAdmin ? '/admin/sandboxes' : '/v2/sandboxes', { limit: 100, metadata, state }, signal, show))
    isFirst.current = false
  }, ROUND_MS, [isAdmin, metadata, state])

  const shown = useMemo(() => (rows ?? []).filter(row => words.every(word =>
    row.sandboxID.includes(word) || (row.alias ?? row.templateID).toLowerCase().includes(word) || (row.teamID ?? '').includes(word))), [rows, words])
  const { body, first, last } = useWindow(shown.length)
  const inView = shown.slice(first, last)
  const wanted = inView.filter(row => row.state === 'running').map(row => row.sandboxID).slice(0, METRICS_AT_ONCE).join(',')
  usePolled(async signal => {
    if (wanted === '' || isAdmin) return
    const found = await get<{ sandboxes: Record<string, Metric> }>('/sandboxes/metrics', { sandbox_ids: wanted }, signal)
    setMetrics(old => ({ ...old, ...found.sandboxes }))
  }, ROUND_MS, [wanted])

  const picked = shown.filter(row => chosen.has(row.sandboxID))
  const toggle = (id: string) => setChosen(old => {
    const next = new Set(old)
    if (!next.delete(id)) next.add(id)
    return next
  })
  const onAll = async (work: (row: Listed) => Promise<unknown>) => {
    const left = [...picked]
    const errors: string[] = []
    const next = async () => {
      for (let row = left.pop(); row !== undefined; row = left.pop()) {
        try {
          await work(row)
        } catch (error) {
          errors.push(`${row.sandboxID}: ${String((error as Error).message)}`)
        }
      }
    }
    await Promise.all(Array.from({ length: 8 }, next))
    setChosen(new Set())
    refresh()
    if (errors.length > 0) throw new Error(errors.slice(0, 3).join('; '))
  }
  const kill = (row: Listed) => request('DELETE', `${isAdmin ? '/admin' : ''}/sandboxes/${row.sandboxID}`)
  return (
    <>
      <div class="bar">
        <h1>Sandboxes</h1>
        <span role="status">{rows === null ? 'loading' : `${shown.length} of ${rows.length}`}</span>
        <label>Filter <input type="search" value={filter} placeholder="name=value, id or template" onInput={event => setFilter(event.currentTarget.value)} /></label>
        <label>State <select value={state} onChange={event => setState(event.currentTarget.value)}>
          <option value="">all</option><option>running</option><option>paused</option>
        </select></label>
      </div>
      <div class="bar" role="toolbar" aria-label="Chosen sandboxes">
        <span>{picked.length} chosen</span>
        {!isAdmin && <>
          <Action disabled={picked.length === 0} report={setProblem} run={() => onAll(changes.prolong)}>+1 h</Action>
          <Action disabled={!picked.some(row => row.state === 'running')} report={setProblem} run={() => onAll(changes.pause)}>Pause</Action>
          <Action disabled={!picked.some(row => row.state === 'paused')} report={setProblem} run={() => onAll(changes.resume)}>Resume</Action>
          <Action disabled={!picked.some(row => row.state === 'running')} report={setProblem} run={() => onAll(changes.fork)}>Fork</Action>
          <Action disabled={!picked.some(row => row.state === 'running')} report={setProblem} run={() => onAll(changes.forkFiles)}>Fork files</Action>
        </>}
        <button type="button" class="danger" disabled={picked.length === 0} onClick={() => setAsking(true)}>Kill</button>
      </div>
      <Problem text={problem || failed} />
      {asking && <Confirm action="Kill" text={`Kill ${picked.length} sandbox${picked.length === 1 ? '' : 'es'}? Their files and processes are lost.`} done={yes => {
        setAsking(false)
        if (yes) onAll(kill).catch((error: unknown) => setProblem(String((error as Error).message)))
      }} />}
      <div class="table" role="table" aria-label="Sandboxes" aria-rowcount={shown.length + 1}>
        <div role="rowgroup"><div role="row" class="row head" aria-rowindex={1}>
          <span role="columnheader"><input type="checkbox" aria-label="Choose all" checked={picked.length > 0 && picked.length === shown.length}
            onChange={event => setChosen(event.currentTarget.checked ? new Set(shown.map(row => row.sandboxID)) : new Set())} /></span>
          {['Sandbox', 'State', isAdmin ? 'Team' : 'Metadata', 'Template', 'Age', 'Ends in', 'Memory', 'CPU', 'Tier'].map(name =>
            <span role="columnheader" key={name} class={name.replace(' ', '').toLowerCase()}>{name}</span>)}
        </div></div>
        <div class="body" ref={body} role="rowgroup" tabIndex={0} aria-label="Rows">
          <div role="presentation" class="space" ref={box => { if (box) box.style.height = `${first * ROW}px` }} />
          {inView.map((row, index) => {
            const metric = metrics[row.sandboxID]
            return (
              <div role="row" class="row" key={row.sandboxID} aria-rowindex={first + index + 2}>
                <span role="cell"><input type="checkbox" aria-label={`Choose ${row.sandboxID}`} checked={chosen.has(row.sandboxID)} onChange={() => toggle(row.sandboxID)} /></span>
                <span role="cell" class="sandbox">{isAdmin ? <code>{row.sandboxID}</code> : <a href={`#/sandbox/${row.sandboxID}`}>{row.sandboxID}</a>}</span>
                <span role="cell" class="state"><span class={`state-${row.state}`}>{row.state}</span></span>
                <span role="cell" class="metadata">{isAdmin ? row.teamID : <Metadata of={row.metadata} />}</span>
                <span role="cell" class="template">{row.alias ?? row.templateID}</span>
                <span role="cell" class="age">{since(row.startedAt)}</span>
                <span role="cell" class="endsin">{row.state === 'paused' ? '' : until(row.endAt)}</span>
                <span role="cell" class="memory">{metric === undefined ? `${row.memoryMB} MiB` : `${bytes(metric.memUsed)} of ${bytes(metric.memTotal)}`}</span>
                <span role="cell" class="cpu">{metric === undefined ? row.cpuCount : `${Math.round(metric.cpuUsedPct)} %`}</span>
                <span role="cell" class="tier">{row.runtime ?? ''}</span>
              </div>
            )
          })}
          <div role="presentation" class="space" ref={box => { if (box) box.style.height = `${(shown.length - last) * ROW}px` }} />
        </div>
      </div>
      {rows !== null && rows.length === 0 && <p class="hint">No sandbox is live here. A program with the SDK creates one, or <code>cloister run</code>.</p>}
    </>
  )
}
