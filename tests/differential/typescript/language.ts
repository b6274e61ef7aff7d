// === modern operators
const o: { a?: { b: number | null } } = { a: { b: null } }; let c: number | undefined; c ??= 5; c ||= 6; c &&= c + 1; console.log(o.a?.b ?? 'null', c, 2 ** 3 ** 1, 7n as bigint, 1_000);
// === destructured parameters
function f({ a, b = 2, ...rest }: { a: number; b?: number; [k: string]: number | undefined }, [x, ...ys]: number[] = [9]): unknown[] { return [a, b, rest, x, ys]; } console.log(f({ a: 1, z: 3 }), f({ a: 1, b: 0 }, [1, 2, 3])); const { length: len, [0]: first }: string = 'abc'; console.log(len, first);
// === generators typed
function* gen(n: number): Generator<number, string, boolean | undefined> { let i = 0; while (i < n) { const stop = yield i++; if (stop) return 'stopped'; } return 'end'; } const g = gen(5); console.log(g.next(), g.next(), g.next(true), [...gen(3)]);
// === iterators and symbols
class Range implements Iterable<number> { constructor(private a: number, private b: number) {} [Symbol.iterator](): Iterator<number> { let i = this.a; const b = this.b; return { next: (): IteratorResult<number> => (i < b ? { value: i++, done: false } : { value: undefined, done: true }) }; } } console.log([...new Range(1, 4)], Math.max(...new Range(0, 3)));
// === closures and this
class Btn { private n = 0; click = (): number => ++this.n; slow(): () => number { return () => this.n; } } const { click } = new Btn(); click(); console.log(click()); function outer(this: void): () => string { let s = ''; return () => (s += 'x'); } const fn = outer(); fn(); console.log(fn());
// === microtasks
console.log(1); setImmediate((): void => console.log('immediate')); process.nextTick((): void => console.log('tick')); Promise.resolve<number>(1).then((v: number): void => console.log('then', v)); (async (): Promise<void> => { console.log('async'); await null; console.log('after'); })(); console.log(2);
// === proxies typed
const handler: ProxyHandler<Record<string, number>> = { get: (t, k: string) => (k in t ? t[k] : -1), set(t, k: string, v: number): boolean { t[k] = v * 2; return true; } }; const px = new Proxy<Record<string, number>>({}, handler); px.a = 2; console.log(px.a, px.zz);
// === regex and strings
const m: RegExpMatchArray | null = '2024-05-06'.match(/(?<y>\d+)-(?<m>\d+)/); console.log(m?.groups?.y, m?.[2], 'a-b'.split('-') as [string, string], [...'aXbX'.matchAll(/X/g)].map((r: RegExpMatchArray) => r.index), 'x'.padEnd(3, '.') satisfies string);
// === collections
const counts = new Map<string, number>(); for (const ch of 'hello') counts.set(ch, (counts.get(ch) ?? 0) + 1); console.log([...counts].sort(([, a]: [string, number], [, b]) => b - a), new Set<string>(['a', 'a']), new WeakMap<object, number>() instanceof WeakMap, new Uint8Array([1, 300] as number[]));
// === labels switch and loops
let i = 0; do { i++; if (i === 2) continue; console.log(i); } while (i < 4); switch (i as number) { case 4: { const scoped: string = 'four'; console.log(scoped); break; } default: console.log('default'); } lbl: { if (i > 3) break lbl; console.log('never'); }
// === exceptions
function risky(n: number): string { try { if (n === 1) throw new TypeError('one'); if (n === 2) throw 'str'; return 'fine'; } catch (e: unknown) { if (e instanceof TypeError) return `type ${e.message}`; return `other ${String(e)}`; } finally { console.log('finally', n); } } console.log([0, 1, 2].map(risky));
// === dates and json
interface Saved { at: string; tags: readonly string[] } const rev = (k: string, v: unknown): unknown => (k === 'at' ? new Date(v as string) : v); console.log(JSON.parse(JSON.stringify({ at: new Date(0), tags: ['a'] } satisfies { at: Date; tags: string[] }), rev) as Saved);
// === inspect forms
console.log([1, 'a', null, undefined, true, 1n, Symbol('s'), () => 1, class A {}, new Map([[1, 2]]), new Error('e').message, { a: { b: { c: { d: 1 } } } }] as unknown[]); console.dir({ x: 1 } as object); console.group('g' as string); console.log('in'); console.groupEnd(); console.error('err');
// === hoisting
console.log(hoisted(), typeof notYet); function hoisted(): string { return 'up'; } var notYet: number | undefined = 1; console.log(notYet); try { tdz; let tdz = 1; } catch (e) { console.log((e as Error).message); }
// === const reassignment
const k: number = 1; try { (k as any) = 2; } catch (e) { console.log((e as Error).message); } let shadow: string = 'outer'; { let shadow: number = 1; console.log(shadow); } console.log(shadow);
// === numeric edge
const nums: number[] = [0.1 + 0.2, 1 / 3, -0, NaN, Infinity, 1e21, 5e-324, 0xff, 0b11, 0o7]; console.log(nums, nums.map((n: number): string => n.toFixed(2)), (123.456).toLocaleString('en-US'), Number('1e3'), parseInt('12abc', 10), ~~-4.7, 7 >>> 1, -7 >> 1);
// === rest and spread
const merge = <A extends object, B extends object>(a: A, b: B): A & B => ({ ...a, ...b }); function log(first: string, ...more: (string | number)[]): void { console.log(first, ...more); } log('a', 1, 'b'); console.log(merge({ a: 1 }, { b: 2 }), [...[1, 2], ...('xy' as Iterable<string>)], Math.max(...([1, 5] as const)));
// === async errors
const fails = async (): Promise<never> => { throw new Error('f'); }; (async () => { try { await fails(); } catch (e) { console.log('caught', (e as Error).message); } const rs = await Promise.allSettled<number>([Promise.resolve(1), fails()]); rs.forEach((r: PromiseSettledResult<number>) => console.log(r.status, r.status === 'fulfilled' ? r.value : (r.reason as Error).message)); })();
// === symbols as keys and computed members
const key = 'dyn' as const; class Comp { [key]: number = 1; ['comp' + 'uted'](): string { return 'c'; } static [Symbol.for('s')] = 2; get ['g'](): number { return 3; } } const cp: any = new Comp(); console.log(cp.dyn, cp.computed(), cp.g, cp);
// === private names in checks
class Secret { #v = 1; static is(x: object): x is Secret { return #v in x; } static #make(): Secret { return new Secret(); } static create(): Secret { return Secret.#make(); } get #inner(): number { return this.#v; } read(): number { return this.#inner; } } console.log(Secret.is(Secret.create()), Secret.is({}), Secret.create().read());
// === top level await
const v1: number = await Promise.resolve(5); const { v2 } = await (async (): Promise<{ v2: string }> => ({ v2: 'two' }))(); for await (const x of [Promise.resolve('a'), 'b'] as (string | Promise<string>)[]) console.log(x); console.log(v1, v2);
export {};
// === dynamic imports typed
const p: typeof import('node:path') = await import('node:path'); console.log(p.join('a', 'b')); type OS = typeof import('os'); const osm: OS = await import('os'); console.log(typeof osm.EOL); await import('./nope.js').catch((e: NodeJS.ErrnoException) => console.log(e.code));
export {};
// === exports of all kinds
export const a1: number = 1; export let b1 = 'x', c1: string = 'y'; export function fe(): void {} export class Ce {} export interface Ie {} export type Te = string; export enum Ee { A, B } export { a1 as renamed }; export default function def(): string { return 'def'; } export abstract class Ab { abstract x(): void } export const enum Ce2 { Q = 4 } console.log(a1, b1, c1, fe.name, Ce.name, Ee, def(), Ce2.Q);
// === export default expression
interface Opt { a: number }
export default { a: 1 } satisfies Opt; console.log('done');
// === return at the top
const early: boolean = true; console.log('one'); if (early) return; console.log('two');
// === strict directive
'use strict'; try { (undefinedVar as any) = 1; } catch (e) { console.log((e as Error).message); } declare let undefinedVar: number; console.log((function (this: unknown) { return this; })());
// === json modules
import { writeFileSync, unlinkSync } from 'node:fs'; import { tmpdir } from 'node:os'; const jf: string = `${tmpdir()}/t-${process.pid}.json`; writeFileSync(jf, '{"n": 3}'); const data = (await import(jf, { with: { type: 'json' } })) as { default: { n: number } }; console.log(data.default.n); unlinkSync(jf);
// === stdin at its end
import * as readline from 'node:readline'; const rl: readline.Interface = readline.createInterface({ input: process.stdin }); let lines: number = 0; for await (const line of rl) lines += line.length; console.log('lines', lines); export {};
// === child processes
import { execSync, spawnSync, type SpawnSyncReturns } from 'node:child_process'; const r: SpawnSyncReturns<string> = spawnSync('sh', ['-c', 'echo out; exit 4'], { encoding: 'utf8' }); console.log(r.status, r.stdout.trim(), execSync('echo hi').toString().trim()); try { execSync('exit 2', { stdio: 'ignore' }); } catch (e) { console.log((e as { status: number }).status); }
// === streams typed
import { Readable, Transform, type TransformCallback } from 'node:stream'; import { pipeline } from 'node:stream/promises'; class Up extends Transform { override _transform(c: Buffer, _e: BufferEncoding, cb: TransformCallback): void { cb(null, c.toString().toUpperCase()); } } const chunks: string[] = []; await pipeline(Readable.from(['a', 'b']), new Up(), async function (src: AsyncIterable<Buffer>) { for await (const c of src) chunks.push(c.toString()); }); console.log(chunks);
// === events typed
import { EventEmitter } from 'node:events'; class Chat extends EventEmitter { constructor(readonly room: string) { super(); } say(m: string): boolean { return this.emit('msg', { room: this.room, m }); } } const chat = new Chat('r'); chat.on('msg', ({ room, m }: { room: string; m: string }): void => console.log(room, m)); console.log(chat.say('hi'), chat.listenerCount('msg'));
// === crypto and buffers
import { createHash } from 'node:crypto'; const digest = (s: string, alg: 'md5' | 'sha1' = 'md5'): string => createHash(alg).update(s).digest('hex'); const buf: Buffer = Buffer.from('é'); console.log(digest('a'), digest('a', 'sha1'), buf, buf.toString('base64'), new TextDecoder().decode(buf as Uint8Array));
// === intl
const fmt: Intl.NumberFormat = new Intl.NumberFormat('en-US', { style: 'currency', currency: 'USD' }); console.log(fmt.format(1234.5), ['b', 'a'].sort(new Intl.Collator('en').compare), new Date(0).toLocaleDateString('en-GB', { timeZone: 'UTC' } as Intl.DateTimeFormatOptions));
// === abort and timers
import { setTimeout as sleep } from 'node:timers/promises'; const ac: AbortController = new AbortController(); setTimeout(() => ac.abort(new Error('stop')), 2); try { await sleep(1000, undefined, { signal: ac.signal }); } catch (e) { console.log((e as Error).name); } console.log(await sleep(1, 'v'));
// === assert module
import assert from 'node:assert/strict'; assert.equal(1, 1); assert.deepEqual({ a: [1] }, { a: [1] }); try { assert.deepEqual([1, 2], [1, 3]); } catch (e) { console.log((e as { code: string }).code); } await assert.rejects(async () => { throw new Error('r'); }, /r/); console.log('asserted');
// === util inspect custom
import { inspect, promisify, format } from 'node:util'; class Money { constructor(private a: number) {} [inspect.custom](): string { return `$${this.a}`; } } console.log(new Money(5), [new Money(1)], format('%s-%d', 'a', 5), inspect({ a: { b: {} } }, { depth: 0 })); const wait = promisify((ms: number, cb: (e: Error | null, v?: string) => void) => setTimeout(cb, ms, null, 'waited')); console.log(await wait(1));
// === instanceof and in
class A {} class B extends A { b = 1; } const ab: A | B = new B(); if (ab instanceof B) console.log(ab.b); if ('b' in ab) console.log((ab as B).b); console.log(ab.constructor.name, Object.getPrototypeOf(B).name, typeof A, new A() instanceof B);
// === array methods typed
const xs: readonly number[] = [3, 1, 2]; console.log(xs.toSorted((a: number, b: number): number => a - b), xs.at(-1), xs.findLast((x: number): boolean => x > 1), xs.with(0, 9), [...xs.entries()] as [number, number][], xs.reduce<Record<string, number>>((acc, x) => ({ ...acc, [x]: x * x }), {}), Array.isArray(xs) && xs.flatMap((x): number[] => [x, x]));
// === typed tagged unions loop
type Msg = { t: 'a'; n: number } | { t: 'b'; s: string }; const msgs: Msg[] = [{ t: 'a', n: 1 }, { t: 'b', s: 'x' }]; const table: { [K in Msg['t']]: (m: Extract<Msg, { t: K }>) => string } = { a: m => `n${m.n}`, b: m => `s${m.s}` }; for (const m of msgs) console.log(table[m.t](m as never));
// === no semicolons
type NS = { a: number }
const ns: NS = { a: 1 }
let asserted = ns as NS
;[1, 2].forEach((x: number) => console.log(x))
const nn = asserted!
console.log(nn.a)
interface Semi { x: number, y: string; z?: boolean }
const se: Semi = { x: 1, y: '' }
console.log(se)
// === redeclared by every program
enum Color { Cyan = 'c', Magenta = 'm' } namespace Geo { export const flat = true; } abstract class Shape { abstract sides: number; } class Square extends Shape { sides = 4; } function list(): string { return 'function now'; } const User = 'const now', add = 1, parse = 2; let Circle = 3; var Counter = 4; console.log(Color, Geo, new Square(), list(), User, add, parse, Circle, Counter);
