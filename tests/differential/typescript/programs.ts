// === todo list
interface Todo { id: number; title: string; done: boolean } class TodoList { private todos: Todo[] = []; private nextId = 1; add(title: string): Todo { const t: Todo = { id: this.nextId++, title, done: false }; this.todos.push(t); return t; } toggle(id: number): void { const t = this.todos.find(({ id: i }) => i === id); if (!t) throw new Error(`Todo ${id} not found`); t.done = !t.done; } get pending(): ReadonlyArray<Todo> { return this.todos.filter(t => !t.done); } }
const list = new TodoList(); list.add('one'); list.add('two'); list.toggle(1); console.log(list.pending, list); try { list.toggle(9); } catch (e) { console.log((e as Error).message); }
// === async main
async function main(): Promise<void> { const results: number[] = await Promise.all([1, 2, 3].map(async (n): Promise<number> => { await new Promise<void>(r => setTimeout(r, 4 - n)); return n ** 2; })); console.log(results); }
main().catch((e: unknown) => { console.error(e); process.exit(1); });
// === event sourcing
type Ev = { type: 'deposit'; amount: number } | { type: 'withdraw'; amount: number } | { type: 'close' }; interface Acc { balance: number; open: boolean } const reduce = (s: Acc, e: Ev): Acc => { switch (e.type) { case 'deposit': return { ...s, balance: s.balance + e.amount }; case 'withdraw': if (e.amount > s.balance) throw new Error('insufficient'); return { ...s, balance: s.balance - e.amount }; case 'close': return { ...s, open: false }; } }; console.log(([{ type: 'deposit', amount: 10 }, { type: 'withdraw', amount: 3 }, { type: 'close' }] as Ev[]).reduce(reduce, { balance: 0, open: true }));
// === matrix
type Matrix = readonly (readonly number[])[]; const mul = (a: Matrix, b: Matrix): number[][] => a.map(r => b[0].map((_, j) => r.reduce((s, v, k) => s + v * b[k][j], 0))); console.table(mul([[1, 2], [3, 4]], [[0, 1], [1, 0]]));
// === binary search
function bs<T>(a: readonly T[], x: T, cmp: (p: T, q: T) => number = (p, q) => (p < q ? -1 : p > q ? 1 : 0)): number { let lo = 0, hi = a.length - 1; while (lo <= hi) { const m = (lo + hi) >>> 1, c = cmp(a[m]!, x); if (c === 0) return m; if (c < 0) lo = m + 1; else hi = m - 1; } return ~lo; } console.log(bs([1, 3, 5], 3), bs(['a', 'c'], 'b'));
// === graph
class Graph<N extends string> { private e = new Map<N, Map<N, number>>(); edge(a: N, b: N, w = 1): this { for (const [x, y] of [[a, b], [b, a]] as const) { if (!this.e.has(x)) this.e.set(x, new Map()); this.e.get(x)!.set(y, w); } return this; } path(a: N, b: N): { cost: number; via: N[] } | undefined { const dist = new Map<N, number>([[a, 0]]), prev = new Map<N, N>(), q = new Set<N>(this.e.keys()); while (q.size) { const u = [...q].reduce((m, n) => ((dist.get(n) ?? Infinity) < (dist.get(m) ?? Infinity) ? n : m)); q.delete(u); for (const [v, w] of this.e.get(u) ?? []) { const d = (dist.get(u) ?? Infinity) + w; if (d < (dist.get(v) ?? Infinity)) { dist.set(v, d); prev.set(v, u); } } } if (!dist.has(b)) return undefined; const via: N[] = [b]; while (via[0] !== a) via.unshift(prev.get(via[0]!)!); return { cost: dist.get(b)!, via }; } } console.log(new Graph<'A' | 'B' | 'C'>().edge('A', 'B', 5).edge('B', 'C', 1).edge('A', 'C', 9).path('A', 'C'));
// === group by
const groupBy = <T, K extends PropertyKey>(xs: readonly T[], f: (x: T) => K): Record<K, T[]> => xs.reduce((a, x) => { (a[f(x)] ||= []).push(x); return a; }, {} as Record<K, T[]>); console.log(groupBy([1, 2, 3, 4], n => (n % 2 ? 'odd' : 'even')));
// === parser
type Tok = { t: 'num'; v: number } | { t: 'op'; v: string }; class Calc { private i = 0; private constructor(private toks: Tok[]) {} static run(s: string): number { const toks = [...s.matchAll(/\d+(?:\.\d+)?|[-+*/()]/g)].map(([x]): Tok => (isNaN(+x) ? { t: 'op', v: x } : { t: 'num', v: +x })); return new Calc(toks).expr(); } private peek = (): Tok | undefined => this.toks[this.i]; private expr(): number { let v = this.term(); while (['+', '-'].includes(this.peek()?.v as string)) v = this.toks[this.i++]!.v === '+' ? v + this.term() : v - this.term(); return v; } private term(): number { let v = this.atom(); while (['*', '/'].includes(this.peek()?.v as string)) v = this.toks[this.i++]!.v === '*' ? v * this.atom() : v / this.atom(); return v; } private atom(): number { const t = this.toks[this.i++]; if (t === undefined) throw new SyntaxError('unexpected end'); if (t.t === 'num') return t.v; if (t.v === '(') { const v = this.expr(); this.i++; return v; } if (t.v === '-') return -this.atom(); throw new SyntaxError(`unexpected ${t.v}`); } } console.log(Calc.run('2*(3+4)-5/2'), Calc.run('-3+1')); try { Calc.run('1+'); } catch (e: any) { console.log(e.name, e.message); }
// === memoize and curry
const memo = <A extends unknown[], R>(f: (...a: A) => R): ((...a: A) => R) => { const c = new Map<string, R>(); return (...a) => { const k = JSON.stringify(a); return c.has(k) ? c.get(k)! : (c.set(k, f(...a)), c.get(k)!); }; }; const fib: (n: number) => number = memo((n: number) => (n < 2 ? n : fib(n - 1) + fib(n - 2))); console.log(fib(60)); const compose = <T,>(...f: ((x: T) => T)[]) => (x: T): T => f.reduceRight((v, g) => g(v), x); console.log(compose<number>(x => x + 1, x => x * 2)(5));
// === async generator pipeline
async function* source(n: number): AsyncGenerator<number, void, unknown> { for (let i = 0; i < n; i++) { await null; yield i; } } async function collect<T>(it: AsyncIterable<T>): Promise<T[]> { const out: T[] = []; for await (const x of it) out.push(x); return out; } const mapA = async function* <T, U>(it: AsyncIterable<T>, f: (x: T) => U): AsyncGenerator<U> { for await (const x of it) yield f(x); }; collect(mapA(source(3), x => x * 10)).then(r => console.log(r));
// === optional pattern
abstract class Maybe<T> { static of<T>(v: T | null | undefined): Maybe<T> { return v == null ? new None<T>() : new Some(v); } abstract map<U>(f: (v: T) => U): Maybe<U>; abstract or(d: T): T; } class Some<T> extends Maybe<T> { constructor(private readonly v: T) { super(); } map<U>(f: (v: T) => U): Maybe<U> { return Maybe.of(f(this.v)); } or(_: T): T { return this.v; } } class None<T> extends Maybe<T> { map<U>(_: (v: T) => U): Maybe<U> { return new None<U>(); } or(d: T): T { return d; } } console.log(Maybe.of({ a: 5 }).map(x => x.a).or(0), Maybe.of<number>(null).or(7), Maybe.of(1));
// === validation schema
type Schema<T> = { [K in keyof T]: (v: unknown) => v is T[K] }; const isStr = (v: unknown): v is string => typeof v === 'string'; const isNum = (v: unknown): v is number => typeof v === 'number' && !Number.isNaN(v); function validate<T extends object>(s: Schema<T>, o: any): o is T { return (Object.keys(s) as (keyof T)[]).every(k => s[k](o?.[k])); } console.log(validate({ n: isStr, a: isNum }, { n: 'x', a: 1 }), validate({ n: isStr }, { n: 5 }), validate({ n: isStr }, null));
// === http server and fetch
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'; import type { AddressInfo } from 'node:net'; const server = createServer((q: IncomingMessage, r: ServerResponse): void => { r.setHeader('content-type', 'application/json'); r.end(JSON.stringify({ url: q.url })); }); await new Promise<void>(r => server.listen(0, r)); const { port } = server.address() as AddressInfo; const body = (await (await fetch(`http://127.0.0.1:${port}/p`)).json()) as { url: string }; console.log(body.url); server.closeAllConnections(); server.close();
// === file processing
import { promises as fs, writeFileSync } from 'fs'; import * as path from 'path'; import os from 'os'; interface Row { name: string; qty: number } const file: string = path.join(os.tmpdir(), `r-${process.pid}.csv`); writeFileSync(file, 'name,qty\na,1\nb,x\n'); const rows: Row[] = (await fs.readFile(file, 'utf8')).trim().split('\n').slice(1).map((l): Row => { const [name, q] = l.split(',') as [string, string]; return { name, qty: Number.parseInt(q, 10) || 0 }; }); console.log(rows, rows.reduce((s: number, { qty }: Row) => s + qty, 0)); await fs.unlink(file);
// === old require import
import fs = require('fs'); import path = require('path'); console.log(typeof fs.readFileSync, path.sep); function f(): void { console.log('f'); } f();
// === commonjs in typescript
const { join } = require('path') as typeof import('path'); const os2: typeof import('os') = require('os'); console.log(join('a', 'b'), typeof os2.EOL); module.exports = { x: 1 }; if (require.main === module) console.log('main');
// === strategy table
const ops = { '+': (a: number, b: number) => a + b, '-': (a: number, b: number) => a - b, '/': (a: number, b: number): number => { if (b === 0) throw new RangeError('division by zero'); return a / b; } } satisfies Record<string, (a: number, b: number) => number>; type Op = keyof typeof ops; for (const [a, o, b] of [[1, '+', 2], [5, '-', 3], [1, '/', 0]] as [number, Op, number][]) try { console.log(`${a} ${o} ${b} = ${ops[o](a, b)}`); } catch (e) { console.log(e instanceof RangeError ? e.message : 'unknown'); }
// === priority queue
class PQ<T> { private h: { p: number; v: T }[] = []; push(v: T, p: number): void { this.h.push({ p, v }); for (let i = this.h.length - 1; i > 0;) { const u = (i - 1) >> 1; if (this.h[u]!.p <= this.h[i]!.p) break; [this.h[u], this.h[i]] = [this.h[i]!, this.h[u]!]; i = u; } } pop(): T | undefined { const [top] = this.h, last = this.h.pop(); if (this.h.length && last) { this.h[0] = last; for (let i = 0; ;) { let c = 2 * i + 1; if (c >= this.h.length) break; if (c + 1 < this.h.length && this.h[c + 1]!.p < this.h[c]!.p) c++; if (this.h[i]!.p <= this.h[c]!.p) break; [this.h[i], this.h[c]] = [this.h[c]!, this.h[i]!]; i = c; } } return top?.v; } } const pq = new PQ<string>(); pq.push('low', 9); pq.push('high', 1); pq.push('mid', 5); console.log(pq.pop(), pq.pop(), pq.pop(), pq.pop());
// === date handling
const days = (a: Date, b: Date): number => Math.round(Math.abs(+a - +b) / 86_400_000); type ISO = `${number}-${number}-${number}`; const parse = (s: ISO): Date => new Date(`${s}T00:00:00Z`); console.log(days(parse('2024-02-28'), parse('2024-03-01')), parse('2024-12-25').toISOString(), Object.freeze({ d: parse('2000-01-01') }));
// === observer and readonly
interface Observer<in T> { update(v: T): void } class Subject<out T> { #o: Set<Observer<any>> = new Set(); attach(o: Observer<any>): () => void { this.#o.add(o); return () => void this.#o.delete(o); } notify(v: unknown): void { this.#o.forEach(o => o.update(v)); } } const sub = new Subject<number>(); const off = sub.attach({ update: v => console.log('got', v) }); sub.notify(1); off(); sub.notify(2); console.log(sub);
// === tagged literals and symbols
const html = (s: TemplateStringsArray, ...v: unknown[]): string => s.reduce((a, x, i) => a + x + (v[i] ?? ''), ''); const KEY: unique symbol = Symbol('key'); interface WithKey { [KEY]: number } const wk: WithKey = { [KEY]: 1 }; console.log(html`<b>${1}</b>${undefined}`, wk, wk[KEY]); abstract class Sym { static readonly [Symbol.species] = Array; get [Symbol.toStringTag](): string { return 'Sym'; } } console.log(`${new (class extends Sym {})()}`);
// === simple bank
enum TxType { Deposit = 'DEPOSIT', Withdrawal = 'WITHDRAWAL' } interface Tx { type: TxType; amount: number } class Bank { private readonly txs: Tx[] = []; constructor(private _balance: number = 0) {} public deposit(amount: number): void { this._balance += amount; this.txs.push({ type: TxType.Deposit, amount }); } public withdraw(amount: number): boolean { if (amount > this._balance) return false; this._balance -= amount; this.txs.push({ type: TxType.Withdrawal, amount }); return true; } get balance(): number { return this._balance; } history(): readonly Tx[] { return Object.freeze([...this.txs]); } } const bank = new Bank(100); bank.deposit(50); console.log(bank.withdraw(500), bank.withdraw(30), bank.balance, bank.history(), bank);
// === timers and generics
const delay = <T>(ms: number, v: T): Promise<T> => new Promise<T>(res => setTimeout(() => res(v), ms)); (async (): Promise<void> => { const r: [number, string] = await Promise.all([delay(3, 1), delay(1, 'x')] as const) as any; console.log(r); const t: ReturnType<typeof setInterval> = setInterval(() => { console.log('tick'); clearInterval(t); }, 2); })();
// === worker in typescript
import { Worker } from 'node:worker_threads'; const w: Worker = new Worker('require("worker_threads").parentPort.postMessage(6 * 7)', { eval: true }); const answer = await new Promise<number>(r => w.once('message', r)); console.log(answer); await w.terminate();
// === triple slash and jsdoc
/// <reference types="node" />
/**
 * Adds.
 * @param a first
 * @returns {number} the sum
 */
function add(a: number, b: number): number { return a + b; } // @ts-ignore
const x: number = add(1, 2) as any; // @ts-expect-error nothing
console.log(x);
// === uncommon spacing
type
  Alias<
    T
  > = T
  | null
const v
  : Alias<string>
  = 'v'
function
  g<
    T
  >(x: T)
  : T
{ return x }
console.log(v, g(1))
// === html and strings that look like types
const str = 'let x: number = 1; enum E {}', tpl = `interface ${'X'} { a: string }`, re = /: string(?=;)/g; console.log(str, tpl, 'a: string;'.replace(re, ''), "@decorator", '@x', "namespace N {", `@y ${1}`);
// === class with index and generics call
const parsed = JSON.parse('{"a":[1,2]}') as { a: number[] }; const set = new Set<number>(parsed.a), m2 = new Map<string, Array<Record<string, number>>>(); m2.set('k', [{ x: 1 }]); console.log(set, m2, Array.from<number, string>([1], n => `${n}`), new Array<number>(2).fill(0), [] as string[], <string[]>[], ({} as Record<string, never>)); let z = set as unknown as { size: number }; console.log(z.size, (z as any)?.nope?.());
// === loops with types
for (const [k, v] of Object.entries({ a: 1, b: 2 }) as [string, number][]) console.log(k, v); for (let i: number = 0, j: number = 3; i < j; i++, j--) console.log(i, j); const arr: Array<[string, number]> = [['x', 1]]; for (const [s, n] of arr) console.log(s.repeat(n)); outer: for (const a of [1, 2] as const) { for (const b of [1, 2]) { if (a === b) continue outer; console.log(a, b); } } let i2: number; for (i2 of [7, 8]); console.log(i2!);
// === arrow returns and ternaries
const f1 = (x: number): x is 5 => x === 5, f2 = async <T,>(x: T): Promise<T | undefined> => x, f3 = (a?: number): ((b: number) => number) => (b: number): number => (a ?? 0) + b, f4 = (x: any): any => x ? (y: any): any => y : (z: any) => -z; console.log(f1(5), f3(1)(2), f4(0)(3), f4(1)(3)); f2('p').then(console.log); const cond = true ? ((a: number) => a)(1) : (null as any as string); console.log(cond);
