// A terminal in the sandbox: a login shell on a pty of the public API.

import { FitAddon } from '@xterm/addon-fit'
import { Terminal } from '@xterm/xterm'
import { useEffect, useRef, useState } from 'preact/hooks'
import { keepToPolicy } from './nonce'
import { Problem, messageOf } from './parts'
import { type Access, accessTo, rpc, stream } from './traffic'

const MOST_UNSEEN = 128 * 1024

interface StartEvent {
  event?: { start?: { pid: number }; data?: { pty?: string }; end?: { status?: string } }
}

function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), character => character.charCodeAt(0))
}

function toBase64(data: Uint8Array): string {
  return btoa(Array.from(data, byte => String.fromCharCode(byte)).join(''))
}

keepToPolicy()

export function TerminalPane({ id }: { id: string }) {
  const box = useRef<HTMLDivElement>(null)
  const [problem, setProblem] = useState('')
  const [run, setRun] = useState(0)
  const [ended, setEnded] = useState(false)
  useEffect(() => {
    const abort = new AbortController()
    const style = getComputedStyle(document.documentElement)
    const colour = (name: string) => style.getPropertyValue(name).trim()
    const terminal = new Terminal({
      fontSize: 13,
      scrollback: 10_000,
      screenReaderMode: true,
      theme: { background: colour('--code'), foreground: colour('--text'), cursor: colour('--accent'), selectionBackground: colour('--accent-faint') },
    })
    const fit = new FitAddon()
    terminal.loadAddon(fit)
    terminal.open(box.current!)
    fit.fit()
    setProblem('')
    setEnded(false)
    let access: Access | null = null
    let pid: number | null = null
    let typed: Promise<unknown> = Promise.resolve()
    let waiting = ''
    let unseen = 0
    const report = (error: unknown) => { if (!abort.signal.aborted) setProblem(messageOf(error)) }
    // One request at a time keeps the order; what is typed meanwhile goes with the next one.
    const flush = () => {
      typed = typed.then(async () => {
        if (waiting === '' || pid === null || access === null) return
        const data = toBase64(new TextEncoder().encode(waiting))
        waiting = ''
        await rpc(access, 'process.Process/SendInput', { process: { pid }, input: { pty: data } })
      }).catch(report)
    }
    terminal.onData(data => {
      waiting += data
      flush()
    })
    terminal.onResize(({ cols, rows }) => {
      if (pid !== null && access !== null) rpc(access, 'process.Process/Update', { process: { pid }, pty: { size: { cols, rows } } }).catch(report)
    })
    const observer = new ResizeObserver(() => { if (box.current!.clientWidth > 0) fit.fit() })
    observer.observe(box.current!)
    const serve = async () => {
      access = await accessTo(id)
      const start = {
        process: { cmd: '/bin/bash', args: ['-i', '-l'], envs: { TERM: 'xterm-256color', COLORTERM: 'truecolor', LANG: 'C.UTF-8' } },
        pty: { size: { cols: terminal.cols, rows: terminal.rows } },
        tag: 'console',
      }
      for await (const { event } of stream<StartEvent>(access, 'process.Process/Start', start, abort.signal)) {
        if (event?.start !== undefined) {
          pid = event.start.pid
          terminal.focus()
          flush()
        }
        if (event?.data?.pty !== undefined) {
          const part = fromBase64(event.data.pty)
          terminal.write(part)
          unseen += part.length
        }
        // What is not shown yet is bounded, so that a flood of output waits in the sandbox.
        if (unseen > MOST_UNSEEN) {
          await new Promise<void>(done => terminal.write('', done))
          unseen = 0
        }
        if (event?.end !== undefined) break
      }
      pid = null
      setEnded(true)
    }
    serve().catch((error: unknown) => {
      report(error)
      if (!abort.signal.aborted) setEnded(true)
    })
    return () => {
      if (pid !== null && access !== null) rpc(access, 'process.Process/SendSignal', { process: { pid }, signal: 'SIGNAL_SIGKILL' }).catch(() => undefined)
      abort.abort()
      observer.disconnect()
      terminal.dispose()
    }
  }, [id, run])
  return (
    <>
      <Problem text={problem} />
      {ended && <p class="hint">The shell has ended. <button type="button" onClick={() => setRun(run + 1)}>Start another</button></p>}
      <div class="terminal" ref={box} />
    </>
  )
}
