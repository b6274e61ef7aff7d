// All teams, for the operator: their limits, use and keys.

import { useState } from 'preact/hooks'
import { get, send } from './api'
import { KeyTable } from './keys'
import { Action, Problem, clock, usePolled } from './parts'

interface Team {
  teamID: string
  name: string
  createdAt: string
  limits: Record<string, number | null>
  effectiveLimits: Record<string, number | null>
  use: Record<string, number>
}

export function Teams({ id }: { id: string }) {
  return id === '' ? <All /> : <One key={id} id={id} />
}

function All() {
  const [found, setFound] = useState<Team[]>([])
  const [name, setName] = useState('')
  const [problem, setProblem] = useState('')
  const [failed, refresh] = usePolled(async signal => setFound(await get<Team[]>('/admin/teams', {}, signal)), 5000, [])
  return (
    <>
      <h1>Teams</h1>
      <div class="bar"><label>Name <input value={name} onInput={event => setName(event.currentTarget.value)} /></label>
        <Action class="primary" disabled={name.trim() === ''} report={setProblem} run={async () => {
          await send('POST', '/admin/teams', { name: name.trim() })
          setName('')
          refresh()
        }}>Make a team</Action></div>
      <Problem text={problem || failed} />
      <div class="wide" tabIndex={0} role="region" aria-label="Teams"><table>
        <thead><tr>{['Name', 'Id', 'Made', 'Sandboxes', 'Memory'].map(title => <th scope="col" key={title}>{title}</th>)}</tr></thead>
        <tbody>{found.map(team => (
          <tr key={team.teamID}><td><a href={`#/teams/${team.teamID}`}>{team.name}</a></td><td><code>{team.teamID}</code></td><td>{clock(team.createdAt)}</td>
            <td>{team.use['sandboxes']} of {team.effectiveLimits['sandboxes'] ?? 'any'}</td><td>{team.use['memoryMB']} MiB of {team.effectiveLimits['memoryMB'] ?? 'any'}</td></tr>
        ))}</tbody>
      </table></div>
    </>
  )
}

function One({ id }: { id: string }) {
  const [team, setTeam] = useState<Team | null>(null)
  const [given, setGiven] = useState<Record<string, string>>({})
  const [problem, setProblem] = useState('')
  const [failed, refresh] = usePolled(async signal => setTeam(await get<Team>(`/admin/teams/${encodeURIComponent(id)}`, {}, signal)), 5000, [id])
  return (
    <>
      <h1>Team {team?.name ?? id}</h1>
      <Problem text={problem || failed} />
      {team !== null && <>
        <h2>Limits</h2>
        <div class="wide" tabIndex={0} role="region" aria-label="Limits"><table>
          <thead><tr>{['Limit', 'Use', 'Holds', 'New'].map(title => <th scope="col" key={title}>{title}</th>)}</tr></thead>
          <tbody>{Object.keys(team.limits).map(name => (
            <tr key={name}><td>{name}</td><td>{team.use[name] ?? ''}</td><td>{team.effectiveLimits[name] ?? 'none'}</td>
              <td><input type="number" min="0" aria-label={`New limit ${name}`} placeholder={String(team.limits[name] ?? 'default')} value={given[name] ?? ''} onInput={event => {
                const value = event.currentTarget.value
                setGiven(old => ({ ...old, [name]: value }))
              }} /></td></tr>
          ))}</tbody>
        </table></div>
        <Action class="primary" report={setProblem} run={async () => {
          const limits = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== '').map(([name, value]) => [name, Number(value)]))
          await send('PATCH', `/admin/teams/${team.teamID}`, { limits })
          setGiven({})
          refresh()
        }}>Set the limits</Action>
        <h2>Keys</h2>
        <KeyTable base={`/admin/teams/${team.teamID}/api-keys`} ownID="" />
      </>}
    </>
  )
}
