// Templates with their builds, and the log of a build as it grows.

import { useEffect, useRef, useState } from 'preact/hooks'
import { type LogEntry, get, pages, send } from './api'
import { Action, Confirm, Facts, Problem, clock, usePolled } from './parts'
import { Lines } from './records'

interface Build {
  buildID: string
  status: string
  createdAt: string
  finishedAt?: string
}

interface Template {
  templateID: string
  buildID: string
  names: string[]
  aliases: string[]
  public: boolean
  isDefault: boolean
  cpuCount: number
  memoryMB: number
  diskSizeMB: number
  buildCount: number
  buildStatus: string
  spawnCount: number
  lastSpawnedAt: string | null
  updatedAt: string
  builds?: Build[]
}

function nameOf(template: Template): string {
  return template.names[0] ?? template.aliases[0] ?? template.templateID
}

export function Templates({ id }: { id: string }) {
  return id === '' ? <All /> : <One key={id} id={id} />
}

function All() {
  const [found, setFound] = useState<Template[]>([])
  const [problem] = usePolled(async signal => setFound(await pages<Template>('/v2/templates', { limit: 100 }, signal)), 5000, [])
  return (
    <>
      <h1>Templates</h1>
      <Problem text={problem} />
      <div class="wide" tabIndex={0} role="region" aria-label="Templates"><table>
        <thead><tr>{['Name', 'Status', 'Builds', 'Size', 'Sandboxes', 'Changed', 'For'].map(name => <th scope="col" key={name}>{name}</th>)}</tr></thead>
        <tbody>{found.map(one => (
          <tr key={one.templateID}>
            <td><a href={`#/templates/${encodeURIComponent(one.templateID)}`}>{nameOf(one)}</a></td>
            <td><span class={`build-${one.buildStatus}`}>{one.buildStatus}</span></td><td>{one.buildCount}</td>
            <td>{one.cpuCount} CPU, {one.memoryMB} MiB</td><td>{one.spawnCount}</td><td>{clock(one.updatedAt)}</td>
            <td>{one.isDefault ? 'everyone' : one.public ? 'all teams' : 'this team'}</td>
          </tr>
        ))}</tbody>
      </table></div>
    </>
  )
}

function One({ id }: { id: string }) {
  const [template, setTemplate] = useState<Template | null>(null)
  const [chosen, setChosen] = useState('')
  const [problem, setProblem] = useState('')
  const [asking, setAsking] = useState(false)
  const [failed, refresh] = usePolled(async signal => setTemplate(await get<Template>(`/templates/${encodeURIComponent(id)}`, {}, signal)), 3000, [id])
  const builds = template?.builds ?? []
  const build = builds.find(one => one.buildID === chosen) ?? builds[0]
  return (
    <>
      <div class="bar"><h1>Template {template === null ? id : nameOf(template)}</h1>
        {template !== null && !template.isDefault && <button type="button" class="danger" onClick={() => setAsking(true)}>Delete</button>}</div>
      {asking && <Confirm action="Delete" text="Delete this template with its builds? Live sandboxes go on." done={yes => {
        setAsking(false)
        if (yes) send('DELETE', `/templates/${encodeURIComponent(id)}`).then(() => { location.hash = '#/templates' }, (error: unknown) => setProblem(String((error as Error).message)))
      }} />}
      <Problem text={problem || failed} />
      {template !== null && <Facts facts={[
        ['Id', <code>{template.templateID}</code>],
        ['Size', `${template.cpuCount} CPU, ${template.memoryMB} MiB memory, ${template.diskSizeMB} MiB disk`],
        ['Sandboxes made', `${template.spawnCount}${template.lastSpawnedAt === null ? '' : `, last ${clock(template.lastSpawnedAt)}`}`],
        ['For', template.isDefault ? 'everyone: it comes with the server' : template.public ? 'all teams' : 'this team'],
      ]} />}
      {builds.length > 0 && <>
        <h2>Builds</h2>
        <div class="bar"><label>Build <select value={build?.buildID} onChange={event => setChosen(event.currentTarget.value)}>
          {builds.map(one => <option key={one.buildID} value={one.buildID}>{clock(one.createdAt)} {one.status}</option>)}</select></label>
          {build?.status === 'building' && <Action class="danger" report={setProblem} run={async () => {
            await send('DELETE', `/templates/${encodeURIComponent(id)}/builds/${build.buildID}`)
            refresh()
          }}>Cancel</Action>}</div>
      </>}
      {build !== undefined && template !== null && <BuildLog key={build.buildID} template={template.templateID} build={build.buildID} />}
    </>
  )
}

function BuildLog({ template, build }: { template: string; build: string }) {
  const [entries, setEntries] = useState<LogEntry[]>([])
  const [status, setStatus] = useState('')
  const [reason, setReason] = useState('')
  const offset = useRef(0)
  useEffect(() => { offset.current = 0 }, [build])
  const [problem] = usePolled(async signal => {
    for (;;) {
      const found = await get<{ status: string; logEntries: LogEntry[]; reason?: { message: string } }>(
        `/templates/${template}/builds/${build}/status`, { logsOffset: offset.current, limit: 100 }, signal)
      if (signal.aborted) return
      offset.current += found.logEntries.length
      setStatus(found.status)
      setReason(found.reason?.message ?? '')
      if (found.logEntries.length === 0) return
      setEntries(old => [...old, ...found.logEntries])
    }
  }, 1000, [template, build])
  return (
    <>
      <p role="status"><span class={`build-${status}`}>{status}</span></p>
      <Problem text={reason || problem} />
      <Lines entries={entries} label="Build log" />
    </>
  )
}
