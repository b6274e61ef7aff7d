// The files of a sandbox, as its default user sees them: look around, upload, download, remove.

import { useRef, useState } from 'preact/hooks'
import { Action, Confirm, Problem, bytes, clock, messageOf, usePolled } from './parts'
import { type Access, type Entry, accessTo, download, list, rpc, upload } from './traffic'

const HOME = '/home/user'
const DIRECTORY = 'FILE_TYPE_DIRECTORY'

function joined(directory: string, name: string): string {
  return `${directory === '/' ? '' : directory}/${name}`
}

export function Files({ id }: { id: string }) {
  const [path, setPath] = useState(HOME)
  const [listed, setListed] = useState<{ of: string; entries: Entry[] }>({ of: '', entries: [] })
  const [problem, setProblem] = useState('')
  const [removing, setRemoving] = useState<Entry | null>(null)
  const access = useRef<Access | null>(null)
  const picker = useRef<HTMLInputElement>(null)
  const [failed, refresh] = usePolled(async signal => {
    access.current ??= await accessTo(id)
    const found = await list(access.current, path)
    if (!signal.aborted) setListed({ of: path, entries: found.sort((a, b) => Number(b.type === DIRECTORY) - Number(a.type === DIRECTORY) || a.name.localeCompare(b.name)) })
  }, 5000, [id, path])
  // Of another directory nothing is shown, also while this one cannot be listed.
  const entries = listed.of === path ? listed.entries : []
  const put = async (files: Iterable<File>) => {
    setProblem('')
    try {
      for (const file of files) await upload(access.current!, joined(path, file.name), file)
    } catch (error) {
      setProblem(messageOf(error))
    }
    refresh()
  }
  const save = async (entry: Entry) => {
    const link = document.createElement('a')
    link.href = URL.createObjectURL(await download(access.current!, entry.path))
    link.download = entry.name
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
  }
  return (
    <div onDragOver={event => event.preventDefault()} onDrop={event => {
      event.preventDefault()
      void put([...(event.dataTransfer?.files ?? [])])
    }}>
      <div class="bar">
        <label class="grow">Directory <input value={path} spellcheck={false} onChange={event => setPath(event.currentTarget.value || '/')} /></label>
        <button type="button" disabled={path === '/'} onClick={() => setPath(path.replace(/\/[^/]*\/?$/, '') || '/')}>Up</button>
        <button type="button" onClick={() => picker.current?.click()}>Upload</button>
        <input ref={picker} type="file" multiple hidden aria-label="Files to upload" onChange={event => {
          void put([...(event.currentTarget.files ?? [])])
          event.currentTarget.value = ''
        }} />
      </div>
      <Problem text={problem || failed} />
      {removing !== null && <Confirm action="Remove" text={`Remove ${removing.path}?`} done={yes => {
        setRemoving(null)
        if (yes) rpc(access.current!, 'filesystem.Filesystem/Remove', { path: removing.path }).then(refresh, (error: unknown) => setProblem(messageOf(error)))
      }} />}
      <div class="wide" tabIndex={0} role="region" aria-label="Files"><table>
        <thead><tr><th scope="col">Name</th><th scope="col">Size</th><th scope="col">Changed</th><th scope="col">Do</th></tr></thead>
        <tbody>{entries.map(entry => (
          <tr key={entry.path}>
            <td>{entry.type === DIRECTORY ? <button type="button" class="link" onClick={() => setPath(entry.path)}>{entry.name}/</button> : entry.name}</td>
            <td>{entry.type === DIRECTORY ? '' : bytes(Number(entry.size ?? 0))}</td>
            <td>{entry.modifiedTime === undefined ? '' : clock(entry.modifiedTime)}</td>
            <td class="buttons">{entry.type !== DIRECTORY && <Action report={setProblem} run={() => save(entry)}>Download</Action>} <button type="button" class="danger" onClick={() => setRemoving(entry)}>Remove</button></td>
          </tr>
        ))}</tbody>
      </table></div>
      {listed.of === path && entries.length === 0 && <p class="hint">The directory is empty. Drop files here, or use Upload.</p>}
    </div>
  )
}
