// === default and named imports
import fs, { readFileSync as read, existsSync } from 'fs'; import * as path from 'node:path'; import { EventEmitter, once } from 'events';
console.log(read === fs.readFileSync, typeof existsSync, path.sep, typeof EventEmitter, typeof once, path.default === path.posix || typeof path.default);
// === top level await
const value = await new Promise(r => setTimeout(() => r('awaited'), 2)); console.log(value); for await (const x of (async function* () { yield 1; yield 2; })()) console.log(x);
// === imports are hoisted
console.log(basename('/a/b.txt')); function useLater() { return basename('/c/d'); } console.log(useLater());
import { basename } from 'node:path';
// === dynamic import
const { join } = await import('node:path'); console.log(join('a', 'b')); const os = await import('os'); console.log(typeof os.default.platform, typeof os.platform, os[Symbol.toStringTag]); await import('./missing.mjs').catch(e => console.log(e.code)); await import('no-such-package-zz').catch(e => console.log(e.code));
// === import json
import { writeFileSync } from 'node:fs'; import { tmpdir } from 'node:os'; const jf = `${tmpdir()}/d-${process.pid}.json`; writeFileSync(jf, '{"k":[1,2]}'); const j = await import(jf, { with: { type: 'json' } }); console.log(j.default); await import(jf).catch(e => console.log(e.code)); const { createRequire } = await import('node:module'); console.log(createRequire(import.meta.url)(jf));
// === exports
export const PI2 = 6.28; export function area(r) { return PI2 * r; } export class Shape {} export default function main() { return 'main'; } export { area as surface }; export * from 'node:path'; export * as nodeos from 'node:os';
console.log(area(1), main(), typeof Shape);
// === export default expressions
export default { name: 'x', run() { return this.name; } };
console.log('exported');
// === export default class
export default class Widget { static make() { return new Widget(); } }
console.log(Widget.make());
// === export async function
export async function load() { await null; return 'loaded'; }
console.log(await load());
// === import meta
console.log(typeof import.meta.url, import.meta.url.startsWith('file://'), typeof import.meta.dirname, typeof import.meta.filename, import.meta.resolve('node:fs'), Object.prototype.hasOwnProperty.call(import.meta, 'url'));
// === data url module
const m = await import('data:text/javascript,export default 5; export const x = [1]; console.log("loaded")'); console.log(m, m.default, m.x); await import('data:text/javascript,throw new Error("in module")').catch(e => console.log(e.message)); await import('data:text/javascript,let x = ;').catch(e => console.log(e.name, e.message));
// === local modules
import { writeFileSync as w, mkdtempSync } from 'fs'; import { tmpdir as t } from 'os'; import { join as jn } from 'path'; const d = mkdtempSync(jn(t(), 'm-')); w(jn(d, 'a.mjs'), 'import { b } from "./b.mjs"; export const a = () => b + 1; export let n = 0; export const inc = () => n++;'); w(jn(d, 'b.mjs'), 'export const b = 41;'); w(jn(d, 'c.cjs'), 'exports.c = __filename.endsWith("c.cjs"); exports.d = require("./e.json").v'); w(jn(d, 'e.json'), '{"v": 7}'); const a = await import(jn(d, 'a.mjs')); console.log(a.a(), a.n, a.inc(), a.n); const c = await import(jn(d, 'c.cjs')); console.log(c.c, c.d, c.default);
// === missing named export
import { noSuchThing } from 'node:fs';
console.log('never', noSuchThing);
// === syntax error in module
import { sep } from 'node:path';
const ok = 1;
const broken = = 2;
// === uncaught in module
import { sep as sp } from 'node:path';
function fail() { throw new TypeError('module boom'); }

fail(sp);
// === rejected top level await
import 'node:fs';
await Promise.reject(new RangeError('tla'));
// === unsettled top level await
console.log('waiting'); export {};
await new Promise(() => {});
// === this is not shown
import assert from 'node:assert'; assert.equal(typeof require === 'undefined' || typeof require, typeof require === 'undefined' || 'function'); console.log('ok');
// === timers in modules
import { setTimeout as delay } from 'node:timers/promises'; import process from 'node:process'; await delay(2); console.log('delayed', typeof process.pid); import { styleText, promisify } from 'node:util'; console.log(typeof promisify);
// === event loop with await
import { readFile } from 'node:fs/promises'; process.nextTick(() => console.log('tick')); Promise.resolve().then(() => console.log('micro')); setImmediate(() => console.log('immediate')); console.log('sync'); await readFile('/etc/hostname'); console.log('after file');
// === require in modules
import { createRequire as cr } from 'node:module'; const req = cr(import.meta.url); console.log(req('node:path').sep, req.resolve('fs'), typeof req.cache);
