// The audit log: who changed what. A team sees its own records, the operator all.

import { useState } from 'preact/hooks'
import { type Session, request } from './api'
import { Action, Problem, clock, usePolled } from './parts'

interface Record {
  number: number
  timestamp: string
  teamID: string | null
  keyID: string | null
  address: string
  action: string
  objectID: string
  status: number
  error: string | null
}

export function Audit({ session }: { session: Session }) {
  const [found, setFound] = useState<Record[]>([])
  const [more, setMore] = useState<string | null>(null)
  const [problem, setProblem] = useState('')
  const load = async (nextToken?: string) => {
    const answer = await request('GET', '/audit', { query: { limit: 100, nextToken } })
    const page = (await answer.json()) as Record[]
    setFound(old => nextToken === undefined ? page : [...old, ...page])
    setMore(answer.headers.get('X-Next-Token'))
  }
  const [failed] = usePolled(() => load(), 3_600_000, [session.keyID])
  return (
    <>
      <h1>Audit</h1>
      <Problem text={problem || failed} />
      <div class="wide" tabIndex={0} role="region" aria-label="Audit"><table>
        <thead><tr>{['Time', ...(session.scope === 'admin' ? ['Team'] : []), 'Action', 'Object', 'Result', 'Key', 'Address'].map(title => <th scope="col" key={title}>{title}</th>)}</tr></thead>
        <tbody>{found.map(one => (
          <tr key={`${one.teamID ?? ''}${one.number}`}><td>{clock(one.timestamp)}</td>{session.scope === 'admin' && <td>{one.teamID}</td>}<td>{one.action}</td><td><code>{one.objectID}</code></td>
            <td>{one.status}{one.error === null ? '' : ` ${one.error}`}</td><td><code>{one.keyID?.slice(0, 8)}</code></td><td>{one.address}</td></tr>
        ))}</tbody>
      </table></div>
      {more !== null && <Action report={setProblem} run={() => load(more)}>More</Action>}
    </>
  )
}
