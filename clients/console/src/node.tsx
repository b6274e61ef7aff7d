// The health of the node, for the operator.

import { useState } from 'preact/hooks'
import { get } from './api'
import { Facts, Problem, bytes, since, usePolled } from './parts'

interface NodeState {
  nodeID: string
  version: string
  startedAt: string
  draining: boolean
  answerMs: number
  memory: Record<string, number>
  disk: Record<string, number>
  pool: Record<string, number>
  creations: Record<string, number>
  builds: Record<string, number>
  limitsMet: Record<string, number>
  descriptors: Record<string, number>
}

function counts(of: Record<string, number>): string {
  return Object.entries(of).map(([name, value]) => `${name.replace(/_/g, ' ')} ${value}`).join(', ')
}

export function Node() {
  const [node, setNode] = useState<NodeState | null>(null)
  const [problem] = usePolled(async signal => setNode(await get<NodeState>('/admin/node', {}, signal)), 3000, [])
  return (
    <>
      <h1>Node</h1>
      <Problem text={problem} />
      {node !== null && <Facts facts={[
        ['State', node.draining ? 'draining: it takes no sandboxes' : 'takes sandboxes'],
        ['Id', <code>{node.nodeID}</code>],
        ['Release', node.version],
        ['Supervisor since', since(node.startedAt)],
        ['Answers in', `${node.answerMs.toFixed(1)} ms`],
        ['Memory', Object.entries(node.memory).map(([name, value]) => `${name} ${name === 'refused' ? value : bytes(value)}`).join(', ')],
        ['Disk', Object.entries(node.disk).map(([name, value]) => `${name} ${name === 'stopped' ? value : bytes(value)}`).join(', ')],
        ['Pool', counts(node.pool)],
        ['Creations', counts(node.creations)],
        ['Builds', counts(node.builds)],
        ['Limits met', counts(node.limitsMet)],
        ['Open descriptors', counts(node.descriptors)],
      ]} />}
    </>
  )
}
