// === microtasks and timers
console.log(1); setImmediate(() => console.log('immediate')); process.nextTick(() => console.log('tick')); Promise.resolve().then(() => console.log('micro')); queueMicrotask(() => console.log('queued')); console.log(2);
// === tick before promises
Promise.resolve().then(() => { console.log('p1'); process.nextTick(() => console.log('t in p')); }).then(() => console.log('p2')); process.nextTick(() => { console.log('t1'); Promise.resolve().then(() => console.log('p in t')); });
// === await order
async function a1() { console.log('a1 start'); await a2(); console.log('a1 end'); } async function a2() { console.log('a2'); } console.log('script'); setTimeout(() => console.log('timer'), 0); a1(); new Promise(r => { console.log('p1'); r(); }).then(() => console.log('p2')); console.log('end');
// === timers by delay
for (const ms of [30, 10, 20]) setTimeout(console.log, ms, `after ${ms}`); const never = setTimeout(() => console.log('never'), 15); clearTimeout(never);
// === interval that clears itself
let n = 0; const id = setInterval(() => { console.log('tick', ++n); if (n === 3) clearInterval(id); }, 5);
// === promise combinators
const wait = (ms, v, fail) => new Promise((r, j) => setTimeout(() => fail ? j(new Error(v)) : r(v), ms)); (async () => { console.log(await Promise.all([wait(9, 'a'), 'plain', wait(1, 'b')])); console.log(await Promise.allSettled([wait(1, 'x', true), wait(2, 'y')])); console.log(await Promise.race([wait(20, 'slow'), wait(1, 'fast')])); console.log(await Promise.any([wait(1, 'bad', true), wait(5, 'good')])); await Promise.all([wait(1, 'boom', true), wait(2, 'ok')]).catch(e => console.log(e.message)); await Promise.any([wait(1, 'p', true), wait(1, 'q', true)]).catch(e => console.log(e.name, e.errors.map(x => x.message))); })();
// === then chains
Promise.resolve(1).then(v => v + 1).then(v => { throw new Error('v' + v); }).then(() => console.log('skipped')).catch(e => { console.log('caught', e.message); return 'recovered'; }).finally(() => console.log('finally')).then(console.log);
// === finally returns
const ff = () => { try { return 'try'; } finally { console.log('in finally'); } }; console.log(ff(), (() => { try { throw 1; } catch { return 'c'; } finally { return 'f'; } })());
// === async iteration
async function* agen() { for (let i = 0; i < 3; i++) { await null; yield i; } } (async () => { for await (const v of agen()) console.log(v); for await (const v of [Promise.resolve('a'), 'b']) console.log(v); const it = agen(); console.log(await it.next(), await it.return('x'), await it.next()); })();
// === sequential and parallel
const log = []; const job = async (n, ms) => { log.push(`start ${n}`); await new Promise(r => setTimeout(r, ms)); log.push(`end ${n}`); return n; }; (async () => { for (const n of [1, 2]) await job(n, 2); await Promise.all([job(3, 8), job(4, 2)]); console.log(log.join(', ')); })();
// === thenables
(async () => { console.log(await { then(r) { r('thenable'); } }); console.log(await Promise.resolve({ then: (r, j) => j('no') }).catch(x => 'caught ' + x)); })();
// === retry with backoff
async function retry(fn, times, delay = 1) { for (let i = 1; ; i++) try { return await fn(i); } catch (e) { console.log(`attempt ${i}: ${e.message}`); if (i >= times) throw e; await new Promise(r => setTimeout(r, delay * 2 ** i)); } } retry(async i => { if (i < 3) throw new Error('flaky'); return 'ok'; }, 5).then(console.log);
// === limited concurrency
async function pool(tasks, size) { const out = []; let i = 0, running = 0, peak = 0; await Promise.all(Array.from({ length: size }, async () => { while (i < tasks.length) { const k = i++; running++; peak = Math.max(peak, running); out[k] = await tasks[k](); running--; } })); return { out, peak }; } pool([1, 2, 3, 4, 5].map(n => () => new Promise(r => setTimeout(r, 3, n * n))), 2).then(r => console.log(r));
// === abort controller
const ac = new AbortController(); ac.signal.addEventListener('abort', () => console.log('aborted', ac.signal.reason.name)); setTimeout(() => ac.abort(), 5); require('timers/promises').setTimeout(1000, null, { signal: ac.signal }).catch(e => console.log(e.name, e.code, e.message));
// === timers promises
const tp = require('timers/promises'); (async () => { console.log(await tp.setTimeout(3, 'v'), await tp.setImmediate('i')); let n = 0; for await (const v of tp.setInterval(2, 'x')) { console.log(v); if (++n === 3) break; } })();
// === event loop phases
const fs = require('fs'); fs.readFile(__filename.replace(/[^/]*$/, '') || '.', () => { setTimeout(() => console.log('t'), 0); setImmediate(() => console.log('i')); process.nextTick(() => console.log('n')); });
// === async stack of queue
class Queue { #items = []; #waiting = []; push(v) { const w = this.#waiting.shift(); w ? w(v) : this.#items.push(v); } pop() { return this.#items.length ? Promise.resolve(this.#items.shift()) : new Promise(r => this.#waiting.push(r)); } } const q = new Queue(); (async () => { for (let i = 0; i < 3; i++) console.log('got', await q.pop()); })(); q.push(1); setTimeout(() => { q.push(2); q.push(3); }, 3);
// === promisify and callbacks
const { promisify, callbackify } = require('util'); const cb = (x, done) => setTimeout(() => x < 0 ? done(new Error('neg')) : done(null, x * 2), 1); promisify(cb)(4).then(console.log); promisify(cb)(-1).catch(e => console.log(e.message)); callbackify(async x => x + 1)(1, (e, v) => console.log('cb', e, v));
// === async local storage alone
const { AsyncLocalStorage } = require('async_hooks'); const als = new AsyncLocalStorage(); als.run({ id: 1 }, () => setTimeout(() => console.log(als.getStore()), 2)); als.run({ id: 2 }, async () => { await null; console.log(als.getStore()); }); console.log(als.getStore());
// === debounce and memoize
const debounce = (f, ms) => { let t; return (...a) => { clearTimeout(t); t = setTimeout(() => f(...a), ms); }; }; const dl = debounce(v => console.log('last', v), 5); dl(1); dl(2); dl(3); const memo = f => { const c = new Map(); return n => c.has(n) ? c.get(n) : (c.set(n, f(n)), c.get(n)); }; const mfib = memo(n => n < 2 ? n : mfib(n - 1) + mfib(n - 2)); console.log(mfib(80));
// === unhandled then handled
const late = Promise.reject(new Error('late')); late.catch(() => {}); setTimeout(() => late.catch(e => console.log('later', e.message)), 3);
// === event target and once
const { once, on } = require('events'); const ee = new (require('events'))(); (async () => { setTimeout(() => ee.emit('go', 1, 2), 1); console.log(await once(ee, 'go')); const et = new EventTarget(); et.addEventListener('e', e => console.log(e.type, e.detail)); et.dispatchEvent(new CustomEvent('e', { detail: 5 })); })();
// === nested timers keep order
setTimeout(() => { console.log('A'); setTimeout(() => console.log('B'), 0); Promise.resolve().then(() => console.log('C')); process.nextTick(() => console.log('D')); }, 0); setTimeout(() => console.log('E'), 0);
// === using promise constructor errors
new Promise(() => { throw new TypeError('in executor'); }).catch(e => console.log(e.name, e.message)); new Promise((r, j) => { r(1); j(new Error('ignored')); throw new Error('ignored too'); }).then(console.log);
// === message channel
const { port1, port2 } = new MessageChannel(); port1.on('message', m => { console.log('got', m); port1.close(); }); port2.postMessage({ a: [1, new Date(0)], m: new Map([[1, 2]]) });
// === worker thread
const { Worker, isMainThread } = require('worker_threads'); const w = new Worker('const { parentPort, workerData } = require("worker_threads"); parentPort.postMessage(workerData.map(x => x * 2));', { eval: true, workerData: [1, 2, 3] }); w.on('message', m => console.log('result', m)); w.on('exit', c => console.log('exit', c)); console.log(isMainThread);
// === worker error
const w2 = new (require('worker_threads').Worker)('throw new TypeError("inside")', { eval: true }); w2.on('error', e => console.log(e.name, e.message)); w2.on('exit', c => console.log(c));
// === shared array
const sab = new SharedArrayBuffer(8), ia = new Int32Array(sab); new (require('worker_threads').Worker)('const a = new Int32Array(require("worker_threads").workerData); Atomics.add(a, 0, 5); Atomics.store(a, 1, 1); Atomics.notify(a, 1)', { eval: true, workerData: sab }).on('exit', () => console.log(Atomics.load(ia, 0), ia));
