// The team's keys. A new key is shown once.

import { useState } from 'preact/hooks'
import { type Session, get, send } from './api'
import { Action, Confirm, Problem, clock, messageOf, usePolled } from './parts'

export interface Key {
  id: string
  name: string
  mask: { prefix: string; maskedValuePrefix: string; maskedValueSuffix: string }
  createdAt: string
  lastUsed: string | null
  expiresAt: string | null
  key?: string
}

const MOST_DAYS = 36_500

// `base` is the path of the keys: the team's own, or below /admin.
export function KeyTable({ base, ownID }: { base: string; ownID: string }) {
  const [found, setFound] = useState<Key[]>([])
  const [name, setName] = useState('')
  const [days, setDays] = useState('')
  const [made, setMade] = useState<Key | null>(null)
  const [problem, setProblem] = useState('')
  const [revoking, setRevoking] = useState<Key | null>(null)
  const [failed, refresh] = usePolled(async signal => setFound(await get<Key[]>(base, {}, signal)), 10_000, [base])
  return (
    <>
      <div class="bar">
        <label>Name <input value={name} onInput={event => setName(event.currentTarget.value)} /></label>
        <label>Days <input type="number" min="1" value={days} placeholder="no end" onInput={event => setDays(event.currentTarget.value)} /></label>
        <Action class="primary" disabled={name.trim() === ''} report={setProblem} run={async () => {
          if (days !== '' && !(Number(days) > 0 && Number(days) <= MOST_DAYS)) throw new Error(`give between 1 and ${MOST_DAYS} days, or none for a key without an end`)
          const end = days === '' ? {} : { expiresAt: new Date(Date.now() + Number(days) * 86_400_000).toISOString() }
          setMade(await send<Key>('POST', base, { name: name.trim(), ...end }))
          setName('')
          refresh()
        }}>Make a key</Action>
      </div>
      <Problem text={problem || failed} />
      {made !== null && <div class="made" role="status"><p>Copy the key now; it is not shown again.</p><code>{made.key}</code> <button type="button" onClick={() => setMade(null)}>Done</button></div>}
      {revoking !== null && <Confirm action="Revoke" text={`Revoke the key ${revoking.name}? Its clients are refused at once.${revoking.id === ownID ? ' It is the key of this session, which ends.' : ''}`} done={yes => {
        setRevoking(null)
        if (yes) send('DELETE', `${base}/${revoking.id}`).then(refresh, (error: unknown) => setProblem(messageOf(error)))
      }} />}
      <div class="wide" tabIndex={0} role="region" aria-label="Keys"><table>
        <thead><tr>{['Name', 'Key', 'Made', 'Last used', 'Ends', 'Do'].map(title => <th scope="col" key={title}>{title}</th>)}</tr></thead>
        <tbody>{found.map(key => (
          <tr key={key.id}><td>{key.name}{key.id === ownID ? ' (this session)' : ''}</td><td><code>{key.mask.prefix}{key.mask.maskedValuePrefix}…{key.mask.maskedValueSuffix}</code></td>
            <td>{clock(key.createdAt)}</td><td>{key.lastUsed === null ? 'never' : clock(key.lastUsed)}</td><td>{key.expiresAt === null ? '' : clock(key.expiresAt)}</td>
            <td><button type="button" class="danger" onClick={() => setRevoking(key)}>Revoke</button></td></tr>
        ))}</tbody>
      </table></div>
    </>
  )
}

export function Keys({ session }: { session: Session }) {
  return <><h1>Keys</h1><KeyTable base="/api-keys" ownID={session.keyID} /></>
}
