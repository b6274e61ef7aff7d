// Builds the console into src/cloister/console, or into the directory that is named. The result depends on the sources and the lock file only.
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const here = fileURLToPath(new URL('.', import.meta.url))
const target = process.argv[2] ?? join(here, '../../src/cloister/console')

rmSync(target, { recursive: true, force: true })
mkdirSync(target, { recursive: true })
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ['src/app.tsx'],
  outdir: target,
  bundle: true,
  splitting: true,
  format: 'esm',
  target: 'es2022',
  minify: true,
  metafile: true,
  legalComments: 'none',
  charset: 'ascii',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  entryNames: '[name]-[hash]',
  chunkNames: 'part-[hash]',
})

const css = readFileSync(join(here, 'src/style.css'))
const libraries = ['@xterm/xterm/css/xterm.css', 'uplot/dist/uPlot.min.css'].map(name => readFileSync(join(here, 'node_modules', name)))
const sheet = await build({
  stdin: { contents: Buffer.concat([...libraries, css]).toString(), loader: 'css' },
  minify: true, write: false, legalComments: 'none',
})
const text = sheet.outputFiles[0].text
const style = `style-${createHash('sha256').update(text).digest('hex').slice(0, 8).toUpperCase()}.css`
writeFileSync(join(target, style), text)

const script = Object.entries(metafile.outputs).find(([, output]) => output.entryPoint === 'src/app.tsx')[0].split('/').pop()
writeFileSync(join(target, 'index.html'), readFileSync(join(here, 'src/index.html'), 'utf8').replace('{{script}}', script).replace('{{style}}', style))

// The licences of what is inside, since the files carry no comments.
const inside = new Set(Object.keys(metafile.inputs).flatMap(name => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(name)?.[1] ?? []))
const notices = [...inside].sort().map(name => {
  const directory = join(here, 'node_modules', name)
  const { version, license } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'))
  const file = readdirSync(directory).find(one => /^licen[cs]e/i.test(one))
  return `${name} ${version} (${license})\n\n${file === undefined ? '' : readFileSync(join(directory, file), 'utf8').trim()}\n`
})
writeFileSync(join(target, 'licences.txt'), notices.join('\n----\n\n'))
