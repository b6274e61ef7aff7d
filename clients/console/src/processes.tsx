// The processes that clients started in a sandbox.

import { useRef, useState } from 'preact/hooks'
import { Action, Problem, usePolled } from './parts'
import { type Access, accessTo, rpc } from './traffic'

interface Process {
  pid: number
  tag?: string
  config?: { cmd?: string; args?: string[]; cwd?: string }
}

export function Processes({ id, shown }: { id: string; shown: boolean }) {
  const [found, setFound] = useState<Process[]>([])
  const [problem, setProblem] = useState('')
  const access = useRef<Access | null>(null)
  const [failed, refresh] = usePolled(async () => {
    if (!shown) return
    access.current ??= await accessTo(id)
    setFound((await rpc<{ processes?: Process[] }>(access.current, 'process.Process/List', {})).processes ?? [])
  }, 3000, [id, shown])
  const end = (pid: number, signal: string) => async () => {
    await rpc(access.current!, 'process.Process/SendSignal', { process: { pid }, signal })
    refresh()
  }
  return (
    <>
      <p class="hint">Processes that were started by the API, a terminal among them. The others are in <code>ps aux</code> in the terminal.</p>
      <Problem text={problem || failed} />
      <div class="wide" tabIndex={0} role="region" aria-label="Processes"><table>
        <thead><tr><th scope="col">Pid</th><th scope="col">Command</th><th scope="col">Directory</th><th scope="col">Signals</th></tr></thead>
        <tbody>{found.map(one => (
          <tr key={one.pid}><td>{one.pid}</td><td><code>{[one.config?.cmd, ...(one.config?.args ?? [])].join(' ')}</code></td><td>{one.config?.cwd}</td>
            <td class="buttons"><Action report={setProblem} run={end(one.pid, 'SIGNAL_SIGTERM')}>End</Action> <Action class="danger" report={setProblem} run={end(one.pid, 'SIGNAL_SIGKILL')}>Kill</Action></td></tr>
        ))}</tbody>
      </table></div>
    </>
  )
}
