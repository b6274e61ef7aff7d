// Small parts of all pages: errors, dialogs, polling, numbers and times.

import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

export function Problem({ text }: { text: string }) {
  return text === '' ? null : <p class="problem" role="alert">{text}</p>
}

// Calls `work` now and again after each pause, while the page is in view. Its errors are shown until a call succeeds.
export function usePolled(work: (signal: AbortSignal) => Promise<void>, everyMs: number, inputs: unknown[]): [string, () => void] {
  const [problem, setProblem] = useState('')
  const [round, setRound] = useState(0)
  useEffect(() => {
    const abort = new AbortController()
    let timer: ReturnType<typeof setTimeout> | undefined
    const turn = async () => {
      if (document.visibilityState === 'visible') {
        try {
          await work(abort.signal)
          if (!abort.signal.aborted) setProblem('')
        } catch (error) {
          if (!abort.signal.aborted) setProblem(messageOf(error))
        }
      }
      if (!abort.signal.aborted) timer = setTimeout(() => void turn(), everyMs)
    }
    void turn()
    return () => {
      abort.abort()
      clearTimeout(timer)
    }
  }, [...inputs, round])
  return [problem, () => setRound(value => value + 1)]
}

export function bytes(value: number): string {
  if (value < 1024) return `${value} B`
  const units = ['KiB', 'MiB', 'GiB', 'TiB']
  let scaled = value
  let unit = ''
  for (unit of units) {
    scaled /= 1024
    if (scaled < 1024) break
  }
  return `${scaled < 10 ? scaled.toFixed(1) : Math.round(scaled)} ${unit}`
}

export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min`
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`
}

export function since(time: string): string {
  return duration((Date.now() - Date.parse(time)) / 1000)
}

export function until(time: string): string {
  return duration((Date.parse(time) - Date.now()) / 1000)
}

export function clock(time: string): string {
  return new Date(time).toLocaleString(undefined, { dateStyle: 'short', timeStyle: 'medium' })
}

// A question before something that cannot be undone.
export function Confirm({ text, action, done }: { text: string; action: string; done: (yes: boolean) => void }) {
  const dialog = useRef<HTMLDialogElement>(null)
  useEffect(() => dialog.current?.showModal(), [])
  return (
    <dialog ref={dialog} onClose={() => done(dialog.current?.returnValue === 'yes')} aria-label={action}>
      <p>{text}</p>
      <div class="buttons">
        <button type="button" onClick={() => dialog.current?.close('no')}>Keep</button>
        <button type="button" class="danger" onClick={() => dialog.current?.close('yes')}>{action}</button>
      </div>
    </dialog>
  )
}

// A button whose work may fail or take a while.
export function Action({ run, report, children, ...rest }: {
  run: () => Promise<void>
  report: (problem: string) => void
  children: ComponentChildren
  class?: string
  disabled?: boolean
}) {
  const [busy, setBusy] = useState(false)
  const click = async () => {
    setBusy(true)
    report('')
    try {
      await run()
    } catch (error) {
      report(messageOf(error))
    }
    setBusy(false)
  }
  return <button type="button" {...rest} disabled={busy || rest.disabled === true} aria-busy={busy} onClick={() => void click()}>{children}</button>
}

export function Facts({ facts }: { facts: [string, ComponentChildren][] }) {
  return <dl class="facts">{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
}

export function Metadata({ of }: { of: Record<string, string> | undefined }) {
  return <>{Object.entries(of ?? {}).map(([name, value]) => <span class="tag" key={name}>{name}={value}</span>)}</>
}
