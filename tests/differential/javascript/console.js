// === inspect depth
console.log({ a: { b: { c: { d: 1 } } } }, [[[[1]]]], { f() {}, g: () => 1, h: class X {}, i: async () => {}, j: function* () {}, k: Symbol('s'), l: null, m: undefined, n: /x/g, o: new Error('e').message, p: new Map([[{ a: 1 }, new Set([1])]]), q: 1n, r: -0, s: 'it\'s', t: "say \"x\"", u: 'line\nbreak' });
// === long arrays
console.log(Array.from({ length: 120 }, (_, i) => i)); console.log('x'.repeat(200).length, ['a'.repeat(100), 'b'.repeat(20)], new Array(5).fill('word'), [1.5, 22.25, 333]); console.log(Object.fromEntries(Array.from({ length: 30 }, (_, i) => ['key' + i, i])));
// === circular
const c = { name: 'x' }; c.self = c; c.list = [c, { c }]; console.log(c); const arr = [1]; arr.push(arr); console.log(arr);
// === format specifiers
console.log('%s is %d years and %i, %f, %j %o %O %%', 'Bob', 42.5, 42.9, '1.5', { a: 1 }, [1], { b: { c: {} } }, 'extra', 1); console.log('%c styled', 'color: red'); console.log('%s', null, undefined, 5n, Symbol('q'), -0, () => 1, class A {}); console.log('100%', 5, '%d', '%x'); console.log('%d', '0x10', '%i', 3.7);
// === console kinds
console.log(); console.info('info'); console.debug('debug'); console.error('error %s', 'x'); console.warn('warn'); console.log('a\tb', 'multi\nline'); console.log(undefined, null, true, [], {}, '', [undefined, null], [[]], [{}]);
// === groups
console.group('Outer'); console.log('in'); console.group(); console.log('deeper\nlines'); console.info({ a: 1 }); console.groupEnd(); console.warn('err in group'); console.groupEnd(); console.groupCollapsed('c'); console.log('x'); console.groupEnd(); console.groupEnd(); console.log('out');
// === table
console.table([{ a: 1, b: 'x' }, { a: 2, c: true }]); console.table([[1, 2], [3, 4]]); console.table({ r1: { v: 1 }, r2: { v: 2 } }); console.table([{ a: 1, b: 2 }], ['b']); console.table([1, 'two', { three: 3 }]); console.table(5); console.table([]); console.table(new Map([['k', 1]])); console.table(new Set([1])); console.table([{ name: '日本', v: 'é' }]);
// === count and assert
console.count(); console.count('x'); console.count('x'); console.countReset('x'); console.count('x'); console.assert(true, 'no'); console.assert(false, 'yes %s', 1); console.assert(false); console.assert(0, { a: 1 });
console.countReset(); console.countReset('x');
// === dir
console.dir({ a: { b: { c: { d: { e: 1 } } } } }, { depth: 0 }); console.dir({ a: { b: { c: { d: {} } } } }, { depth: null }); console.dir([1, 'a'], { colors: true }); console.dirxml({ x: 1 }, [2]);
// === util inspect options
const util = require('util'); const o = { a: 1, b: [1, 2, [3]], c: new Map([['k', { v: 1 }]]), get g() { return 5; }, [Symbol('s')]: 1 }; for (const opt of [{}, { compact: false }, { depth: 0 }, { colors: true }, { showHidden: true }, { breakLength: Infinity }, { sorted: true }, { getters: true }, { maxArrayLength: 1 }, { maxStringLength: 1 }]) console.log(util.inspect(o, opt)); console.log(util.format('%s %o', 'a', { f() {} }), util.inspect('str'), util.inspect(new Proxy({ a: 1 }, {}), { showProxy: true }));
// === custom inspect
class Money { constructor(a) { this.a = a; } [require('util').inspect.custom](depth, opts, inspect) { return `Money(${inspect(this.a, opts)})`; } } console.log(new Money(5), [new Money('x')], { m: new Money({ d: 1 }) }); class Priv { #p = 1; pub = 2; static s = 3; } console.log(new Priv(), Priv); console.log(Object.create(null), Object.create({ constructor: { name: 'Fake' } }), new (class extends Map {})(), new (class Foo extends Array {})(3));
// === errors in output
const e = new RangeError('bad'); e.stack = 'RangeError: bad\n    at fake (x.js:1:1)'; e.code = 'E1'; console.log(e); console.log({ e }); console.log([e]); console.log('%s', e); console.log(`${e}`, String(e), e + ''); const ag = new AggregateError([new Error('1')], 'many'); console.log(ag.errors.length, ag.message); const nostack = new Error('no'); delete nostack.stack; nostack.stack = undefined; console.log(nostack);
// === functions and classes
console.log(function () {}, function named() {}, () => {}, async function af() {}, function* gen() {}, async function* ag() {}, class {}, class A {}, class B extends Array {}, Math, JSON, globalThis === global, Math.max, console.log.name, Reflect, Atomics, Symbol, Intl, WebAssembly);
// === boxed and special
console.log(new Number(1), new String('s'), new Boolean(false), Object(Symbol('b')), Object(1n), new Date(NaN), [1, , 3], [, ,], Object.assign([1, 2], { extra: true }), Object.assign(() => {}, { p: 1 }), (function () { return arguments; })(1, 2), new (class Foo { constructor() { this.x = 1; } })(), [1, 2, 3].entries(), new Map([[1, 2]]).keys(), new Set([1])[Symbol.iterator](), (function* () {})(), Promise.resolve(4), Promise.reject(5).catch(() => {}) instanceof Promise, new Promise(() => {}), new WeakMap(), new ArrayBuffer(4), globalThis[Symbol.toStringTag]);
// === process stdout
process.stdout.write('no newline'); process.stdout.write('\n'); process.stderr.write('to err\n'); process.stdout.write(Buffer.from('bytes é\n')); process.stdout.write(new Uint8Array([104, 105, 10])); process.stdout.write('latin\n', 'latin1'); process.stdout.write('cb\n', () => console.log('written')); console.log(process.stdout.writable, process.stdout.isTTY, process.stdout.columns, process.stdout.fd, process.stderr.fd);
// === stdout errors
for (const bad of [5, null, undefined, {}]) try { process.stdout.write(bad); } catch (e) { console.log(e.name, e.code, e.message); }
// === console constructor
const { Console } = require('console'), { PassThrough } = require('stream'); const sink = new PassThrough(); const mine = new Console(sink); mine.log('to sink', { a: 1 }); mine.group('g'); mine.log('x'); console.log(JSON.stringify(sink.read().toString())); new console.Console(process.stdout).log('direct');
// === pipeline to stdout
const { pipeline, Readable } = require('stream'); pipeline(Readable.from(['a\n', 'b\n']), process.stdout, e => console.log('piped', e)); Readable.from(['c\n']).pipe(process.stdout);
// === progress with carriage returns
for (let i = 0; i <= 3; i++) process.stdout.write(`\r${i}/3`); process.stdout.write('\n'); const readline = require('readline'); readline.cursorTo(process.stdout, 0); readline.clearLine(process.stdout, 0); console.log('\x1b[31mred\x1b[0m', '\u{1F600}', '日本語', '\0nul');
// === many lines
for (let i = 0; i < 300; i++) console.log('line', i); console.error('done');
// === children between lines
const cp = require('child_process'); console.log('before'); cp.execSync('echo child; echo err >&2', { stdio: 'inherit' }); console.log('between'); cp.spawnSync('sh', ['-c', 'echo second'], { stdio: ['ignore', 1, 2] }); require('fs').writeSync(1, 'raw\n'); console.log('after'); for (let i = 0; i < 10; i++) { process.stdout.write(`${i} `); require('fs').writeSync(1, `${i}\n`); } cp.spawn('echo', ['async child'], { stdio: 'inherit' }).on('close', c => console.log('closed', c));
