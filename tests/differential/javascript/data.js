// === maps and sets
const m = new Map([['a', 1], [NaN, 2], [{}, 3]]); m.set('b', { c: [1] }).delete('a'); console.log(m, m.size, m.get(NaN), [...m.keys()], new Map([[1, new Map([[2, 3]])]])); const s = new Set('hello'); s.add(NaN).add(NaN); console.log(s, [...s].join(''), s.has(NaN)); m.forEach((v, k, mm) => console.log(v, k, mm === m));
// === group and count
const words = 'the cat the dog the end'.split(' '); console.log(words.reduce((a, w) => ({ ...a, [w]: (a[w] ?? 0) + 1 }), {}), Object.entries(words.reduce((a, w) => (a[w] = (a[w] || 0) + 1, a), Object.create(null))).sort(([, a], [, b]) => b - a));
// === typed arrays
const u8 = new Uint8Array([1, 256, -1]), f = new Float32Array([1.1, NaN]), dv = new DataView(new ArrayBuffer(8)); dv.setInt16(0, -2); dv.setFloat32(4, 1.5, true); console.log(u8, f, new Uint8ClampedArray([300, -5]), new BigInt64Array([1n]), dv, dv.getInt16(0), dv.getUint16(0, true), u8.subarray(1), Uint8Array.from('123'), new Uint16Array(u8.buffer.slice(0, 2)));
// === buffers
const b = Buffer.from('héllo €'); console.log(b, b.length, b.toString('hex'), b.toString('base64'), Buffer.from('aGk=', 'base64').toString(), b.slice(0, 3), Buffer.concat([Buffer.from('a'), Buffer.alloc(2, 'z')]).toString(), b.readUInt16BE(0), Buffer.compare(Buffer.from('a'), Buffer.from('b')), b.equals(Buffer.from('héllo €')), Buffer.byteLength('€'), b.toJSON().data.slice(0, 3), b.indexOf('l'), b.includes('z'));
// === string methods
console.log('abc'.padStart(5, '*'), 'x'.repeat(3), 'a-b-c'.replaceAll('-', '+'), ' t '.trim() + '|', 'abc'.at(-1), 'Hello'.split(''), 'a,b,,c'.split(',', 3), 'ß'.toUpperCase(), 'İ'.toLowerCase().length, 'abc'.codePointAt(1), String.fromCodePoint(128512), '😀'.length, [...'😀a'].length, 'é'.normalize('NFD').length, 'abcabc'.lastIndexOf('b'), 'x'.localeCompare('y'), 'a\tb\n'.concat('c'), 'abc'.substring(2, 0), 'abc'.substr(-2, 1), 'abc'.slice(-2), 'ab'.isWellFormed?.());
// === regex basics
console.log('2024-03-15'.match(/(?<y>\d{4})-(?<m>\d\d)-(?<d>\d\d)/).groups, 'aBc'.replace(/b/i, x => `[${x}]`), 'a1b22'.match(/\d+/g), 'x'.match(/y/), [...'k1=v1;k2=v2'.matchAll(/(\w+)=(\w+)/g)].map(m => m.slice(1)), 'price $5'.replace(/\$(\d)/, '€$1 $& $$'), /(?<=\$)\d+/.exec('cost $42')[0], 'foobar'.search(/(?<!foo)bar/), /a.c/s.test('a\nc'), 'one two'.replace(/(?<f>\w+) (?<s>\w+)/, '$<s> $<f>'));
// === regex flags
const y = /o/y; y.lastIndex = 1; console.log(y.test('foo'), y.lastIndex, y.test('foo'), y.test('foo'), /\p{Lu}/u.test('É'), /^\p{Emoji}+$/u.test('😀'), /[\p{L}--[a-z]]/v.test('a'), /[\p{L}--[a-z]]/v.test('é'), /a(?<n>b)?/d.exec('xab').indices[0], /x/gimsuy.flags, new RegExp('/[/]\n'), RegExp('a|b', 'g').source, 'aaa'.lastIndexOf('a'), 'A1b2'.split(/(\d)/));
try { new RegExp('('); } catch (e) { console.log(e.name, e.message); } try { new RegExp('a', 'gg'); } catch (e) { console.log(e.message); }
// === dates
const d = new Date(Date.UTC(2024, 1, 29, 12, 30, 45, 123)); console.log(d, d.toISOString(), d.getTime(), d.toJSON(), JSON.stringify({ d }), d.getUTCDay(), new Date(2024, 0, 31).getMonth(), new Date('2024-02-30').getTime(), new Date(NaN), new Date(0), [d], new Date(d.getTime() + 864e5).toISOString().slice(0, 10), Date.parse('2024-01-01T00:00:00Z')); try { new Date(NaN).toISOString(); } catch (e) { console.log(e.name, e.message); }
// === intl
console.log((1234567.891).toLocaleString('en-US'), new Intl.NumberFormat('de-DE', { style: 'currency', currency: 'EUR' }).format(1234.5), new Intl.DateTimeFormat('en-GB', { timeZone: 'UTC', dateStyle: 'full' }).format(0), new Intl.PluralRules('en', { type: 'ordinal' }).select(2), new Intl.ListFormat('en', { type: 'conjunction' }).format(['a', 'b', 'c']), new Intl.RelativeTimeFormat('en', { numeric: 'auto' }).format(-1, 'day'), ['ä', 'a', 'z'].sort(new Intl.Collator('sv').compare), new Intl.NumberFormat('en', { notation: 'compact' }).format(12345), [...new Intl.Segmenter('en', { granularity: 'word' }).segment('Hi you')].map(s => s.segment));
// === number formatting
console.log((255).toString(16), (0.000001234).toString(), (1e21).toString(), (123.456).toFixed(1), (0.5).toFixed(0), (1.005).toFixed(2), (12345.678).toExponential(2), (0.1).toPrecision(20), Number.MAX_SAFE_INTEGER + 2, 5e-324, -0, [-0], (25).toString(36), parseFloat('3.14abc'), Number.EPSILON > 0, (1234.5678).toPrecision(6));
// === object order
console.log({ b: 1, 2: 'x', a: 2, 1: 'y', [Symbol('s')]: 3, 'with-dash': 4, '': 5 }, Object.keys({ 10: 1, 9: 1, z: 1, a: 1 }), { __proto__: null, a: 1 }, { constructor: 1 }, Object.create({ inherited: 1 }, { own: { value: 2, enumerable: true }, hidden: { value: 3 } }));
// === matrix and grid
const grid = Array.from({ length: 3 }, (_, i) => Array.from({ length: 3 }, (_, j) => i * 3 + j)); console.log(grid, grid.map(r => r.join(' ')).join('\n'), grid[0].map((_, c) => grid.map(r => r[c])));
// === sieve and primes
const sieve = n => { const p = Array(n + 1).fill(true); for (let i = 2; i * i <= n; i++) if (p[i]) for (let j = i * i; j <= n; j += i) p[j] = false; return p.flatMap((v, i) => v && i > 1 ? [i] : []); }; console.log(sieve(60));
// === sorting algorithms
const quick = a => a.length < 2 ? a : [...quick(a.slice(1).filter(x => x < a[0])), a[0], ...quick(a.slice(1).filter(x => x >= a[0]))]; const merge = a => { if (a.length < 2) return a; const m = a.length >> 1, l = merge(a.slice(0, m)), r = merge(a.slice(m)), o = []; while (l.length && r.length) o.push(l[0] <= r[0] ? l.shift() : r.shift()); return [...o, ...l, ...r]; }; console.log(quick([3, 6, 1, 8, 2]), merge([5, 2, 9, 1]));
// === graph search
const graph = { A: ['B', 'C'], B: ['D'], C: ['D', 'E'], D: ['F'], E: ['F'], F: [] }; const bfs = (s, t) => { const q = [[s]], seen = new Set([s]); while (q.length) { const p = q.shift(), n = p.at(-1); if (n === t) return p; for (const x of graph[n]) if (!seen.has(x)) seen.add(x), q.push([...p, x]); } }; console.log(bfs('A', 'F'), (function dfs(n, seen = []) { return seen.includes(n) ? seen : graph[n].reduce((a, x) => dfs(x, a), [...seen, n]); })('A'));
// === csv and tables
const csv = 'name,age\nAnn,30\n"Lee, Bo",25'; const rows = csv.split('\n').map(l => l.match(/("([^"]*)"|[^,]+)/g).map(c => c.replace(/^"|"$/g, ''))); const [head, ...body] = rows; const objs = body.map(r => Object.fromEntries(r.map((v, i) => [head[i], isNaN(v) ? v : +v]))); console.log(objs); console.table(objs);
// === functional helpers
const pipe = (...f) => x => f.reduce((v, g) => g(v), x), curry = f => function c(...a) { return a.length >= f.length ? f(...a) : (...b) => c(...a, ...b); }; console.log(pipe(x => x + 1, x => x * 2)(3), curry((a, b, c) => a + b + c)(1)(2, 3), [1, 2, 3].map(String).map(Number.parseFloat), ['1', '2', '3'].map(parseInt));
// === url and query
const u = new URL('https://user:pw@example.com:8080/a/b?x=1&y=2&x=3#frag'); console.log(u, u.searchParams.getAll('x'), [...u.searchParams], new URLSearchParams({ q: 'a b&c' }).toString(), new URL('../c', u).href, encodeURIComponent('a b&é/'), decodeURI('%C3%A9'), escape('é')); try { new URL('nope'); } catch (e) { console.log(e.name, e.code, e.message); } try { decodeURIComponent('%'); } catch (e) { console.log(e.name, e.message); }
// === text encoders
console.log(new TextEncoder().encode('€'), new TextDecoder().decode(new Uint8Array([0xe2, 0x82, 0xac, 0xff])), btoa('hi'), atob('aGk='), new TextDecoder('utf-16le').decode(new Uint8Array([65, 0])), structuredClone(new Set([1])), crypto.randomUUID().length, typeof performance.now(), queueMicrotask.name, typeof fetch, typeof navigator);
// === random with seed
function lcg(seed) { return () => (seed = (seed * 1664525 + 1013904223) % 4294967296) / 4294967296; } const r = lcg(42); console.log([r(), r(), r()].map(v => v.toFixed(6)));
// === deep clone and equality
const { isDeepStrictEqual } = require('util'), assert = require('assert'); console.log(isDeepStrictEqual({ a: [1, { b: 2 }] }, { a: [1, { b: 2 }] }), isDeepStrictEqual(new Set([1]), new Set([2]))); try { assert.deepStrictEqual({ a: 1, b: [1, 2] }, { a: 1, b: [1, 3] }); } catch (e) { console.log(e.code, e.message); } try { assert.equal(1, 2); } catch (e) { console.log(e.name, e.message); } try { assert(0 > 1, 'custom'); } catch (e) { console.log(e.message, e.generatedMessage); } assert.throws(() => { throw new TypeError('x'); }, TypeError); assert.rejects(Promise.reject(new Error('r')), /r/).then(() => console.log('rejects'));
