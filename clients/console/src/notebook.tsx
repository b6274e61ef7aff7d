// Cells of code in any language, with their output as it comes: text, tables, pictures and errors.

import { defaultKeymap, history, historyKeymap, indentWithTab } from '@codemirror/commands'
import { java } from '@codemirror/lang-java'
import { javascript } from '@codemirror/lang-javascript'
import { python } from '@codemirror/lang-python'
import { HighlightStyle, StreamLanguage, bracketMatching, indentOnInput, syntaxHighlighting } from '@codemirror/language'
import { r } from '@codemirror/legacy-modes/mode/r'
import { shell } from '@codemirror/legacy-modes/mode/shell'
import { Compartment, EditorState, type Extension } from '@codemirror/state'
import { EditorView, drawSelection, keymap, lineNumbers } from '@codemirror/view'
import { tags } from '@lezer/highlight'
import { useEffect, useRef, useState } from 'preact/hooks'
import { nonce } from './nonce'
import { Problem, messageOf } from './parts'
import { type Access, type Output, accessTo, execute } from './traffic'

const LANGUAGES: Record<string, () => Extension> = {
  python: () => python(),
  javascript: () => javascript(),
  typescript: () => javascript({ typescript: true }),
  r: () => StreamLanguage.define(r),
  java: () => java(),
  bash: () => StreamLanguage.define(shell),
}
const KEPT = 2000
const MOST_TEXT = 200_000
const COLOURS = HighlightStyle.define([
  { tag: tags.keyword, class: 'code-keyword' },
  { tag: [tags.string, tags.special(tags.string)], class: 'code-string' },
  { tag: [tags.number, tags.bool, tags.null], class: 'code-number' },
  { tag: tags.comment, class: 'code-comment' },
  { tag: [tags.function(tags.variableName), tags.definition(tags.variableName)], class: 'code-name' },
])

// HTML of a program goes into a frame of its own that runs no script and belongs to no origin. This policy says so to the browser.
const frames = (window as { trustedTypes?: { createPolicy: (name: string, rules: { createHTML: (text: string) => string }) => { createHTML: (text: string) => string } } })
  .trustedTypes?.createPolicy('cloister-frame', { createHTML: text => text })

function Frame({ html }: { html: string }) {
  const frame = useRef<HTMLIFrameElement>(null)
  useEffect(() => { frame.current!.srcdoc = frames?.createHTML(html) ?? html }, [html])
  return <iframe ref={frame} sandbox="" title="Output as HTML" class="html" />
}

// A program may print without end.
function cut(text: string): string {
  return text.length > MOST_TEXT ? `[the beginning is left out]\n${text.slice(-MOST_TEXT)}` : text
}

// Terminals colour the text of errors; here the colours are left out.
function plain(text: string): string {
  return text.replace(/\u001b\[[0-9;]*m/g, '')
}

function Shown({ output }: { output: Output }) {
  if (output.type === 'stdout' || output.type === 'stderr') return <pre class={output.type}>{plain(output.text ?? '')}</pre>
  if (output.type === 'error') return <pre class="stderr">{plain(output.traceback || `${output.name ?? ''}: ${output.value ?? ''}`)}</pre>
  if (output.type !== 'result') return null
  if (output.png !== undefined) return <img alt={output.text ?? 'plot'} src={`data:image/png;base64,${output.png}`} />
  if (output.jpeg !== undefined) return <img alt={output.text ?? 'picture'} src={`data:image/jpeg;base64,${output.jpeg}`} />
  if (output.svg !== undefined) return <img alt={output.text ?? 'picture'} src={`data:image/svg+xml;charset=utf-8,${encodeURIComponent(output.svg)}`} />
  if (output.html !== undefined) return <Frame html={output.html} />
  if (output.json !== undefined) return <pre>{JSON.stringify(output.json, null, 2)}</pre>
  return <pre>{output.markdown ?? output.text ?? ''}</pre>
}

interface CellProps {
  access: Access
  language: string
  number: number
  done: () => void
}

function Cell({ access, language, number, done }: CellProps) {
  const box = useRef<HTMLDivElement>(null)
  const [outputs, setOutputs] = useState<Output[]>([])
  const [spoken, setSpoken] = useState(language)
  const [running, setRunning] = useState<AbortController | null>(null)
  const [problem, setProblem] = useState('')
  const view = useRef<EditorView | null>(null)
  const slot = useRef(new Compartment())
  const start = useRef<() => void>(() => undefined)
  start.current = () => {
    if (running !== null) return
    const abort = new AbortController()
    setRunning(abort)
    setProblem('')
    setOutputs([])
    const work = async () => {
      for await (const output of execute(access, view.current!.state.doc.toString(), spoken, abort.signal)) {
        // Pieces of one stream are one piece of text.
        setOutputs(old => {
          const last = old.at(-1)
          const isMore = last !== undefined && last.type === output.type && (output.type === 'stdout' || output.type === 'stderr')
          return isMore ? [...old.slice(0, -1), { ...last, text: cut((last.text ?? '') + (output.text ?? '')) }] : [...old, output].slice(-KEPT)
        })
      }
    }
    work().then(done, (error: unknown) => { setProblem(abort.signal.aborted ? 'interrupted' : messageOf(error)) }).finally(() => setRunning(null))
  }
  useEffect(() => {
    const made = new EditorView({
      parent: box.current!,
      state: EditorState.create({
        extensions: [
          EditorView.cspNonce.of(nonce),
          EditorView.contentAttributes.of({ 'aria-label': `Code of cell ${number}` }),
          lineNumbers(), history(), drawSelection(), indentOnInput(), bracketMatching(), syntaxHighlighting(COLOURS),
          slot.current.of(LANGUAGES[language]!()),
          keymap.of([
            { key: 'Shift-Enter', run: () => { start.current(); return true } },
            { key: 'Mod-Enter', run: () => { start.current(); return true } },
            { key: 'Escape', run: view => { view.contentDOM.blur(); return true } },
            indentWithTab, ...defaultKeymap, ...historyKeymap,
          ]),
        ],
      }),
    })
    view.current = made
    made.focus()
    return () => made.destroy()
  }, [])
  return (
    <div class="cell">
      <div class="bar">
        <label>Language <select value={spoken} onChange={event => {
          const next = event.currentTarget.value
          setSpoken(next)
          view.current!.dispatch({ effects: slot.current.reconfigure(LANGUAGES[next]!()) })
        }}>{Object.keys(LANGUAGES).map(name => <option key={name}>{name}</option>)}</select></label>
        {running === null ? <button type="button" class="primary" onClick={() => start.current()}>Run</button>
          : <button type="button" class="danger" onClick={() => running.abort()}>Interrupt</button>}
        <span role="status">{running === null ? '' : 'running'}</span>
      </div>
      <div class="editor" ref={box} />
      <Problem text={problem} />
      <div class="output" aria-live="polite" aria-label={`Output of cell ${number}`} role="region" tabIndex={0}>{outputs.map((output, index) => <Shown key={index} output={output} />)}</div>
    </div>
  )
}

export function Notebook({ id }: { id: string }) {
  const [access, setAccess] = useState<Access | null>(null)
  const [problem, setProblem] = useState('')
  const [cells, setCells] = useState([1])
  useEffect(() => { accessTo(id).then(setAccess, (error: unknown) => setProblem(messageOf(error))) }, [id])
  return (
    <>
      <p class="hint">Shift+Enter runs a cell. Each language keeps its state from cell to cell. Escape leaves the editor, then Tab moves on.</p>
      <Problem text={problem} />
      {access !== null && cells.map(number => <Cell key={number} access={access} language="python" number={number} done={() =>
        setCells(old => old.at(-1) === number ? [...old, number + 1] : old)} />)}
    </>
  )
}
