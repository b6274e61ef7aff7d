// === async main
const fs = require('fs');
async function main() { const items = [1, 2, 3]; for (const i of items) { await new Promise(r => setTimeout(r, 1)); console.log(`Processing ${i}`); } return 'finished'; }
main().then(console.log).catch(e => { console.error(e); process.exit(1); });
// === require main
function add(a, b) { return a + b; }
if (require.main === module) { console.log('run directly', add(2, 3)); }
module.exports = { add };
// === module exports
const helper = { sum: (...n) => n.reduce((a, b) => a + b, 0) }; module.exports = helper; exports.other = 1; console.log(module.exports.sum(1, 2, 3), typeof exports, typeof require, typeof __filename, typeof __dirname, module.children !== undefined);
// === use strict header
'use strict';
const path = require('path');
class Inventory { #items = new Map(); add(name, qty) { if (qty <= 0) throw new Error('Quantity must be positive'); this.#items.set(name, (this.#items.get(name) ?? 0) + qty); return this; } report() { return [...this.#items].map(([n, q]) => `${n.padEnd(8)}|${String(q).padStart(4)}`).join('\n'); } }
console.log(new Inventory().add('apple', 3).add('pear', 12).report());
// === top level return
console.log('one');
if (process.argv.length > 0) return;
console.log('two');
// === return in try
try { console.log('t'); return; } catch { console.log('c'); } finally { console.log('f'); }
console.log('never');
// === return before timer
setTimeout(() => console.log('timer still runs'), 2); return 5;
// === immediately invoked
(function () { var hidden = 1; console.log(hidden, typeof this); })(); (() => console.log('arrow'))(); !function () { console.log('bang'); }(); (async () => console.log('async'))();
// === fizzbuzz
for (let i = 1; i <= 15; i++) console.log(i % 15 === 0 ? 'FizzBuzz' : i % 5 === 0 ? 'Buzz' : i % 3 === 0 ? 'Fizz' : i);
// === palindromes and anagrams
const clean = s => s.toLowerCase().replace(/[^a-z0-9]/g, ''); const isPal = s => clean(s) === [...clean(s)].reverse().join(''); console.log(isPal('A man, a plan, a canal: Panama'), isPal('no')); const anagrams = ['eat', 'tea', 'tan', 'ate', 'nat', 'bat'].reduce((m, w) => { const k = [...w].sort().join(''); (m[k] ||= []).push(w); return m; }, {}); console.log(Object.values(anagrams));
// === binary tree
class Node { constructor(v) { this.value = v; this.left = this.right = null; } } class BST { root = null; insert(v) { const n = new Node(v); if (!this.root) { this.root = n; return this; } let c = this.root; for (;;) { const side = v < c.value ? 'left' : 'right'; if (!c[side]) { c[side] = n; return this; } c = c[side]; } } *inorder(n = this.root) { if (n) { yield* this.inorder(n.left); yield n.value; yield* this.inorder(n.right); } } } const t = new BST(); [5, 3, 8, 1, 4].forEach(v => t.insert(v)); console.log([...t.inorder()], t);
// === lru cache
class LRU { constructor(n) { this.n = n; this.m = new Map(); } get(k) { if (!this.m.has(k)) return -1; const v = this.m.get(k); this.m.delete(k); this.m.set(k, v); return v; } put(k, v) { this.m.delete(k); this.m.set(k, v); if (this.m.size > this.n) this.m.delete(this.m.keys().next().value); } } const l = new LRU(2); l.put(1, 1); l.put(2, 2); console.log(l.get(1)); l.put(3, 3); console.log(l.get(2), l);
// === statistics
const data = [2, 4, 4, 4, 5, 5, 7, 9]; const mean = data.reduce((a, b) => a + b) / data.length, sd = Math.sqrt(data.map(x => (x - mean) ** 2).reduce((a, b) => a + b) / data.length), mode = Object.entries(data.reduce((m, v) => (m[v] = (m[v] || 0) + 1, m), {})).sort((a, b) => b[1] - a[1])[0][0]; console.log({ mean, sd, mode, median: [...data].sort((a, b) => a - b)[data.length >> 1] });
// === bank simulation
const accounts = [{ id: 1, balance: 100 }, { id: 2, balance: 50 }]; function transfer(from, to, amount) { const a = accounts.find(x => x.id === from), b = accounts.find(x => x.id === to); if (!a || !b) throw new Error('Account not found'); if (a.balance < amount) throw new Error(`Insufficient funds: ${a.balance} < ${amount}`); a.balance -= amount; b.balance += amount; } transfer(1, 2, 30); console.table(accounts); try { transfer(1, 2, 500); } catch ({ message }) { console.log('Error:', message); }
// === event driven
const EventEmitter = require('node:events'); const em = new EventEmitter(); em.on('order', o => console.log(`Order ${o.id}`)); em.on('order', async o => { await null; console.log(`Mail for ${o.id}`); }); em.emit('order', { id: 7 }); console.log(em.eventNames());
// === json file round trip
const fs2 = require('fs'), os = require('os'), p = require('path').join(os.tmpdir(), `j-${process.pid}.json`); fs2.writeFileSync(p, JSON.stringify([{ n: 'a', v: 1 }], null, 2)); const loaded = JSON.parse(fs2.readFileSync(p)); loaded.push({ n: 'b', v: 2 }); console.log(loaded.map(({ n, v }) => `${n}=${v}`).join('&')); fs2.unlinkSync(p);
// === simple test harness
let passed = 0, failed = 0; function test(name, fn) { try { fn(); passed++; console.log(`✓ ${name}`); } catch (e) { failed++; console.log(`✗ ${name}: ${e.message}`); } } const expect = v => ({ toBe: w => { if (v !== w) throw new Error(`expected ${w}, got ${v}`); } }); test('one', () => expect(1).toBe(1)); test('two', () => expect(1).toBe(2)); console.log(`${passed} passed, ${failed} failed`); process.exitCode = failed ? 1 : 0;
// === generator pipeline
const nat = function* () { let n = 1; while (true) yield n++; }; const take = function* (n, it) { for (const v of it) { if (n-- <= 0) return; yield v; } }; const filter = function* (f, it) { for (const v of it) if (f(v)) yield v; }; console.log([...take(5, filter(n => n % 7 === 0, nat()))]);
// === state machine
const machine = { state: 'idle', transitions: { idle: { start: 'running' }, running: { pause: 'paused', stop: 'idle' }, paused: { resume: 'running' } }, dispatch(a) { const n = this.transitions[this.state][a]; console.log(`${this.state} --${a}--> ${n ?? 'invalid'}`); if (n) this.state = n; } }; ['start', 'pause', 'stop', 'resume', 'stop'].forEach(a => machine.dispatch(a));
// === dynamic programming
const lcs = (a, b) => { const m = Array.from({ length: a.length + 1 }, () => Array(b.length + 1).fill('')); for (let i = 1; i <= a.length; i++) for (let j = 1; j <= b.length; j++) m[i][j] = a[i - 1] === b[j - 1] ? m[i - 1][j - 1] + a[i - 1] : m[i - 1][j].length > m[i][j - 1].length ? m[i - 1][j] : m[i][j - 1]; return m[a.length][b.length]; }; console.log(lcs('AGGTAB', 'GXTXAYB'), [...Array(6)].map((_, n, a) => a.slice(0, n).reduce(([x, y]) => [y, x + y], [0, 1])[0]));
// === promise based sleep loop
const sleep = ms => new Promise(r => setTimeout(r, ms)); (async function countdown(n) { while (n > 0) { console.log(n--); await sleep(2); } console.log('Liftoff!'); })(3);
// === big loop
let total = 0; for (let i = 0; i < 5e6; i++) total += i % 7; console.log(total);
// === comment styles and shebang
#!/usr/bin/env node
/* block
   comment */ // trailing
/** @param {number} x */
const dbl = x => x * 2; <!-- legacy comment
console.log(dbl(4)); /* end */
// === crlf and tabs
console.log('crlf');	const tab = 1;
if (tab) {
	console.log('tab', `a
b`.length);
}
// === var redeclared and shadowed
var name = 'outer'; { let name = 'inner'; console.log(name); } function name2() { var name = 'fn'; return name; } var name; console.log(name, name2());
// === globals
globalThis.shared = 5; console.log(shared, typeof window, typeof document, typeof global, global === globalThis, typeof setTimeout, 'process' in globalThis, Object.keys(globalThis).includes('shared')); delete globalThis.shared;
// === long running request mock
const api = { get: (url, ms) => new Promise((res, rej) => setTimeout(() => url.includes('bad') ? rej(Object.assign(new Error(`404 ${url}`), { status: 404 })) : res({ url, ok: true }), ms)) }; (async () => { const rs = await Promise.allSettled(['/a', '/bad', '/c'].map((u, i) => api.get(u, 5 - i))); rs.forEach((r, i) => console.log(i, r.status, r.value ?? r.reason.status)); })();
// === template rendering
const render = (t, d) => t.replace(/\{\{\s*(\w+(?:\.\w+)*)\s*\}\}/g, (_, k) => k.split('.').reduce((o, p) => o?.[p], d) ?? ''); console.log(render('Hi {{ user.name }}, {{count}} new{{ none.x }}', { user: { name: 'Ann' }, count: 3 }));
// === roman and base conversion
const roman = n => [[1000, 'M'], [900, 'CM'], [500, 'D'], [400, 'CD'], [100, 'C'], [90, 'XC'], [50, 'L'], [40, 'XL'], [10, 'X'], [9, 'IX'], [5, 'V'], [4, 'IV'], [1, 'I']].reduce((a, [v, s]) => { while (n >= v) { a += s; n -= v; } return a; }, ''); console.log([4, 9, 2024].map(roman), (1234).toString(2), parseInt('ff', 16));
// === names of globals taken
const { setTimeout: later, setImmediate: soon } = require('timers/promises'); class Map { get(k) { return `mine ${k}`; } } class Set { constructor() { this.own = true; } } const process = require('process'), console2 = console; function Stack() { this.items = []; } (async () => { await later(2); console2.log(new Map().get(1), new Set(), typeof process.pid, new Stack()); })();
// === timers from promises
const { setTimeout } = require('timers/promises'); (async () => { console.log('wait'); await setTimeout(3); console.log('waited'); })();
