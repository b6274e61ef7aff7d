// What the team used: sandboxes at once, and creations.

import { useState } from 'preact/hooks'
import { type Session, get } from './api'
import { Graph } from './graphs'
import { Problem, usePolled } from './parts'

interface Point {
  timestampUnix: number
  concurrentSandboxes: number
  sandboxStartRate: number
}

const SPANS: Record<string, number> = { 'last hour': 3600, 'last day': 86_400, 'last week': 604_800 }

export function Usage({ session }: { session: Session }) {
  const [span, setSpan] = useState('last day')
  const [points, setPoints] = useState<Point[]>([])
  const team = session.team!.teamID
  const [problem] = usePolled(async signal => {
    setPoints(await get<Point[]>(`/teams/${team}/metrics`, { start: Math.floor(Date.now() / 1000) - SPANS[span]! }, signal))
  }, 30_000, [team, span])
  const at = points.map(one => one.timestampUnix)
  return (
    <>
      <h1>Usage of {session.team!.name}</h1>
      <div class="bar"><label>Time <select value={span} onChange={event => setSpan(event.currentTarget.value)}>{Object.keys(SPANS).map(name => <option key={name}>{name}</option>)}</select></label></div>
      <Problem text={problem} />
      <Graph title="Sandboxes at once" unit="" at={at} values={points.map(one => one.concurrentSandboxes)} />
      <Graph title="Creations a minute" unit="" at={at} values={points.map(one => one.sandboxStartRate * 60)} />
    </>
  )
}
