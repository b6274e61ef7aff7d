// One sandbox: what it is, and tabs to look into it.

import { useState } from 'preact/hooks'
import { ApiError, type Detail, get } from './api'
import { changes } from './changes'
import { Files } from './files'
import { Graphs } from './graphs'
import { Notebook } from './notebook'
import { Action, Confirm, Facts, Metadata, Problem, clock, since, until, usePolled } from './parts'
import { Processes } from './processes'
import { Logs, Network } from './records'
import { TerminalPane } from './terminal'

const TABS = ['Overview', 'Terminal', 'Code', 'Files', 'Processes', 'Logs', 'Network'] as const
type Tab = (typeof TABS)[number]
const LIVE: readonly Tab[] = ['Terminal', 'Code', 'Files', 'Processes']

interface LifecycleEvent {
  id: string
  type: string
  timestamp: string
  eventData: Record<string, unknown> | null
}

export function SandboxPage({ id }: { id: string }) {
  const [detail, setDetail] = useState<Detail | null>(null)
  const [gone, setGone] = useState('')
  const [events, setEvents] = useState<LifecycleEvent[]>([])
  const [tab, setTab] = useState<Tab>('Overview')
  const [opened, setOpened] = useState<ReadonlySet<Tab>>(new Set(['Overview']))
  const [problem, setProblem] = useState('')
  const [asking, setAsking] = useState(false)
  const [failed, refresh] = usePolled(async signal => {
    try {
      setDetail(await get<Detail>(`/sandboxes/${encodeURIComponent(id)}`, {}, signal))
      setGone('')
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error
      setGone(error.message)
    }
    setEvents(await get<LifecycleEvent[]>(`/events/sandboxes/${encodeURIComponent(id)}`, { limit: 20 }, signal))
  }, 3000, [id])
  const isLive = detail !== null && gone === '' && detail.state === 'running'
  const show = (next: Tab) => {
    setTab(next)
    setOpened(old => new Set(old).add(next))
  }
  const act = (work: (row: Detail) => Promise<unknown>) => async () => {
    await work(detail!)
    refresh()
  }
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (step === undefined) return
    const next = TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length]!
    show(next)
    document.getElementById(`tab-${next}`)?.focus()
  }
  return (
    <>
      <div class="bar">
        <h1>Sandbox <code>{id}</code></h1>
        {detail !== null && gone === '' && <span class={`state-${detail.state}`} role="status">{detail.state}</span>}
        {gone !== '' && <span class="state-ended" role="status">ended</span>}
      </div>
      {detail !== null && gone === '' && <div class="bar" role="toolbar" aria-label="Actions">
        <Action report={setProblem} run={act(changes.prolong)}>+1 h</Action>
        {isLive ? <Action report={setProblem} run={act(changes.pause)}>Pause</Action> : <Action report={setProblem} run={act(changes.resume)}>Resume</Action>}
        {([['Fork', changes.fork], ['Fork files', changes.forkFiles]] as const).map(([name, fork]) => (
          <Action key={name} report={setProblem} disabled={!isLive} run={async () => {
            const copy = await fork(detail)
            if (copy !== undefined) location.hash = `#/sandbox/${copy}`
          }}>{name}</Action>
        ))}
        <button type="button" class="danger" onClick={() => setAsking(true)}>Kill</button>
      </div>}
      {asking && <Confirm action="Kill" text="Kill this sandbox? Its files and processes are lost." done={yes => {
        setAsking(false)
        if (yes) act(changes.kill)().catch((error: unknown) => setProblem(String((error as Error).message)))
      }} />}
      {gone !== '' && <p class="ended" data-why>{gone}</p>}
      <Problem text={problem || failed} />
      <div role="tablist" aria-label="Parts of the sandbox" onKeyDown={move}>
        {TABS.map(name => <button type="button" role="tab" key={name} id={`tab-${name}`} aria-controls={`panel-${name}`} aria-selected={tab === name}
          tabIndex={tab === name ? 0 : -1} onClick={() => show(name)}>{name}</button>)}
      </div>
      {TABS.map(name => (
        <section role="tabpanel" key={name} id={`panel-${name}`} aria-labelledby={`tab-${name}`} hidden={tab !== name} tabIndex={0}>
          {!opened.has(name) ? null
            : LIVE.includes(name) && !isLive ? <p class="hint">The sandbox does not run.</p>
              : name === 'Overview' ? <Overview detail={detail} events={events} isGone={gone !== ''} />
                : name === 'Terminal' ? <TerminalPane id={id} />
                  : name === 'Code' ? <Notebook id={id} />
                    : name === 'Files' ? <Files id={id} />
                      : name === 'Processes' ? <Processes id={id} shown={tab === name} />
                        : name === 'Logs' ? <Logs id={id} shown={tab === name} />
                          : <Network id={id} shown={tab === name} />}
        </section>
      ))}
    </>
  )
}

function Overview({ detail, events, isGone }: { detail: Detail | null; events: LifecycleEvent[]; isGone: boolean }) {
  return (
    <>
      {detail !== null && <Facts facts={[
        ['Template', detail.alias ?? detail.templateID],
        ['Started', `${clock(detail.startedAt)}, ${since(detail.startedAt)} ago`],
        ...(isGone ? [] : [[detail.state === 'paused' ? 'Paused' : 'Ends', detail.state === 'paused' ? clock(detail.endAt) : `${clock(detail.endAt)}, in ${until(detail.endAt)}`] as [string, string]]),
        ['Size', `${detail.cpuCount} CPU, ${detail.memoryMB} MiB memory, ${detail.diskSizeMB} MiB disk`],
        ['Tier', detail.runtime ?? ''],
        ['At the end', detail.lifecycle?.onTimeout ?? 'kill'],
        ['Metadata', <Metadata of={detail.metadata} />],
      ]} />}
      {detail !== null && !isGone && <Graphs id={detail.sandboxID} />}
      <h2>Events</h2>
      {events.length === 0 ? <p class="hint">None is kept.</p> : <ul class="lines">{events.map(event =>
        <li key={event.id}><time>{clock(event.timestamp)}</time> {event.type.replace('sandbox.lifecycle.', '')} <span class="hint">{event.eventData === null ? '' : JSON.stringify(event.eventData)}</span></li>)}</ul>}
    </>
  )
}
