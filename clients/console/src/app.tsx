// The console: login, navigation, and the page that the address names.

import { type ComponentType, render } from 'preact'
import { useEffect, useErrorBoundary, useState } from 'preact/hooks'
import { type Session, logIn, logOut, onLoggedOut, resumeSession } from './api'
import { Action, Problem, messageOf } from './parts'
import { Sandboxes } from './sandboxes'

interface PageProps {
  session: Session
  id: string
}

// Pages beside the list are loaded when they are opened.
const TEAM_PAGES: Record<string, { title: string; load: () => Promise<ComponentType<PageProps>> }> = {
  sandbox: { title: 'Sandbox', load: async () => (await import('./sandbox')).SandboxPage },
  templates: { title: 'Templates', load: async () => (await import('./templates')).Templates },
  keys: { title: 'Keys', load: async () => (await import('./keys')).Keys },
  usage: { title: 'Usage', load: async () => (await import('./usage')).Usage },
  audit: { title: 'Audit', load: async () => (await import('./audit')).Audit },
}
const ADMIN_PAGES: typeof TEAM_PAGES = {
  teams: { title: 'Teams', load: async () => (await import('./teams')).Teams },
  node: { title: 'Node', load: async () => (await import('./node')).Node },
  audit: TEAM_PAGES['audit']!,
}

// Ids have no other characters, so a link to the console cannot lead its requests to another path.
const ID = /^(\w[\w.-]*)?$/

function place(): { page: string; id: string } {
  const [page = '', id = ''] = location.hash.replace(/^#\/?/, '').split('/')
  return ID.test(id) ? { page: page || 'sandboxes', id } : { page: 'nothing', id: '' }
}

function Login({ why, done }: { why: string; done: (session: Session) => void }) {
  const [problem, setProblem] = useState(why)
  const [busy, setBusy] = useState(false)
  const submit = async (event: SubmitEvent) => {
    event.preventDefault()
    const field = (event.target as HTMLFormElement).elements.namedItem('key') as HTMLInputElement
    setBusy(true)
    try {
      done(await logIn(field.value))
    } catch (error) {
      setProblem(messageOf(error))
      setBusy(false)
    }
    field.value = ''
  }
  return (
    <main class="login">
      <h1>Cloister</h1>
      <form onSubmit={event => void submit(event)}>
        <label for="key">API key</label>
        <input id="key" name="key" type="password" autocomplete="off" spellcheck={false} required autofocus />
        <button class="primary" disabled={busy}>Log in</button>
        <Problem text={problem} />
        <p class="hint">A key of a team shows its sandboxes. <code>cloister env</code> prints one on the server, and <code>cloister key create --admin</code> makes
          one for the operator.</p>
      </form>
    </main>
  )
}

function Loaded({ page, props }: { page: { load: () => Promise<ComponentType<PageProps>> }; props: PageProps }) {
  const [Page, setPage] = useState<ComponentType<PageProps> | null>(null)
  const [problem, setProblem] = useState('')
  const [broken] = useErrorBoundary()
  useEffect(() => {
    page.load().then(found => setPage(() => found), (error: unknown) => setProblem(messageOf(error)))
  }, [page])
  if (broken !== undefined) return <Problem text={`This page cannot be shown: ${messageOf(broken)}. Load it anew.`} />
  return <><Problem text={problem} />{Page !== null && <Page {...props} />}</>
}

function App() {
  const [session, setSession] = useState<Session | null>(null)
  const [ready, setReady] = useState(false)
  const [why, setWhy] = useState('')
  const [at, setAt] = useState(place)
  useEffect(() => {
    onLoggedOut(reason => {
      setWhy(reason)
      setSession(null)
    })
    const move = () => setAt(place())
    addEventListener('hashchange', move)
    resumeSession().then(found => setSession(found), (error: unknown) => setWhy(messageOf(error))).finally(() => setReady(true))
    return () => removeEventListener('hashchange', move)
  }, [])
  const pages = session?.scope === 'admin' ? ADMIN_PAGES : TEAM_PAGES
  const page = Object.hasOwn(pages, at.page) ? pages[at.page] : undefined
  const title = at.page === 'sandboxes' ? 'Sandboxes' : page?.title ?? 'Nothing here'
  useEffect(() => {
    document.title = session === null ? 'Log in – Cloister' : `${title}${at.id === '' ? '' : ` ${at.id}`} – Cloister`
  }, [title, at.id, session])
  if (!ready) return null
  if (session === null) return <Login key={why} why={why} done={found => {
    setWhy('')
    setSession(found)
  }} />
  return (
    <>
      <a class="skip" href="#main" onClick={event => {
        event.preventDefault()
        document.getElementById('main')?.focus()
      }}>Skip to the content</a>
      <header>
        <strong>Cloister</strong>
        <nav aria-label="Pages">
          <a href="#/sandboxes" aria-current={at.page === 'sandboxes' ? 'page' : undefined}>Sandboxes</a>
          {Object.entries(pages).filter(([name]) => name !== 'sandbox').map(([name, { title: text }]) => (
            <a key={name} href={`#/${name}`} aria-current={at.page === name ? 'page' : undefined}>{text}</a>
          ))}
        </nav>
        <span class="who">{session.team?.name ?? 'operator'}</span>
        <Action run={logOut} report={setWhy}>Log out</Action>
        <Problem text={why} />
      </header>
      <main id="main" tabIndex={-1}>
        {at.page === 'sandboxes' ? <Sandboxes session={session} />
          : page === undefined ? <p>There is nothing here.</p>
            : <Loaded key={`${at.page}/${at.id}`} page={page} props={{ session, id: at.id }} />}
      </main>
    </>
  )
}

render(<App />, document.getElementById('app')!)
