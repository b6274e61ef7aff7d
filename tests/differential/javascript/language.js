// === closures in loops
const fns = []; for (let i = 0; i < 3; i++) fns.push(() => i); console.log(fns.map(f => f()));
var old = []; for (var k = 0; k < 3; k++) old.push(() => k); console.log(old.map(f => f()), k);
// === counter closure
function counter() { let n = 0; return { inc: () => ++n, get value() { return n; } }; }
const c = counter(); c.inc(); c.inc(); console.log(c.value, c);
// === hoisting
console.log(typeof hoisted, hoisted(), typeof later); var later = 1; function hoisted() { return 'up'; }
// === temporal dead zone
try { early; let early = 1; } catch (e) { console.log(e.name, e.message); }
try { late; } catch (e) { console.log(e.name, e.message); }
let late = 2;
// === const assignment
const fixed = 1; try { fixed = 2; } catch (e) { console.log(e.constructor.name, e.message); } console.log(fixed);
// === destructuring defaults
const { a = 1, b: { c: deep = 2, ...others } = {}, ...rest } = { b: { x: 1, y: 2 }, z: 3 }; console.log(a, deep, others, rest);
const [first, , third = 'd', ...tail] = 'hello'; console.log(first, third, tail);
let x = 1, y = 2; [x, y] = [y, x]; console.log(x, y);
for (const [key, { v }] of Object.entries({ p: { v: 1 }, q: { v: 2 } })) console.log(key, v);
// === parameters
function f(a, { b = 2, c } = {}, [d, ...e] = [4, 5, 6], ...r) { return [a, b, c, d, e, r, f.length, arguments.length]; }
console.log(f(1), f(1, { c: 3 }, 'xyz', 7, 8)); console.log(((a, b = a * 2, c = () => a + b) => c())(3));
// === spread
console.log(Math.max(...[1, 5, 3]), [...'héllo', ...new Set([1, 1])], { ...{ a: 1, b: 2 }, b: 3, ...null, ...[9] });
// === optional chaining
const o = { f() { return this.v; }, v: 5, n: null }; console.log(o?.f?.(), o.n?.x.y.z, o.g?.(), o?.['v'], delete o?.v, o.v ?? 'none');
// === logical assignment
let la = null, lb = 0, lc = 'c'; la ??= 1; lb ||= 2; lc &&= lc + '!'; console.log(la, lb, lc, null ?? undefined ?? 0);
// === exponent and numbers
console.log(2 ** 10, (-2) ** 3, 0.1 + 0.2, 1_000_000, 0b101, 0o17, 0xff, 5 % -3, -5 % 3, 1 / -0, NaN === NaN, Object.is(-0, 0));
console.log(Number('12px'), parseInt('12px'), +'', +[], +{}, [] + {}, [] == false, null == 0, null >= 0, '2' > '12');
// === bigint
console.log(2n ** 64n, -7n / 2n, BigInt('123'), 5n > 4, 1n == 1, typeof 1n, BigInt.asUintN(8, 257n), [3n, 1, 2n].sort());
try { 1n + 1; } catch (e) { console.log(e.message); } try { JSON.stringify({ a: 1n }); } catch (e) { console.log(e.message); }
// === labels
outer: for (let i = 0; i < 3; i++) { for (let j = 0; j < 3; j++) { if (j === 1) continue outer; if (i === 2) break outer; console.log(i, j); } }
block: { console.log('in'); if (true) break block; console.log('never'); }
// === switch
for (const v of [1, '1', 2, NaN]) switch (v) { case 1: console.log('one'); case 2: console.log('fall'); break; default: console.log('default', v); case 3: console.log('three'); }
// === comma and void
let cm = (1, 2, 3); console.log(cm, void 0, typeof void 0); for (let i = 0, j = 5; i < j; i += 2, j--) console.log(i, j);
// === getters and setters
const acc = { _v: 1, get v() { return this._v; }, set v(n) { this._v = n * 2; }, ['dyn' + 1]: 5 }; acc.v = 4; console.log(acc.v, acc, Object.getOwnPropertyDescriptor(acc, 'v'));
// === symbols
const s = Symbol('desc'); console.log(s.toString(), s.description, { [s]: 1 }, Symbol.for('a') === Symbol.for('a'), Symbol.keyFor(Symbol.for('k')));
class Even { static [Symbol.hasInstance](n) { return n % 2 === 0; } } console.log(2 instanceof Even, 3 instanceof Even);
console.log(`${{ [Symbol.toPrimitive](h) { return h; } }}`, +{ [Symbol.toPrimitive](h) { return h === 'number' ? 7 : 'x'; } }, Object.prototype.toString.call({ get [Symbol.toStringTag]() { return 'Mine'; } }));
// === iterators
class Range { constructor(a, b) { this.a = a; this.b = b; } *[Symbol.iterator]() { for (let i = this.a; i < this.b; i++) yield i; } }
console.log([...new Range(1, 4)], Math.max(...new Range(0, 9)), Array.from(new Range(0, 3), x => x * x)); const [r1, ...rr] = new Range(5, 9); console.log(r1, rr);
const it = { i: 0, next() { return { value: this.i, done: this.i++ > 2 }; }, return() { console.log('closed'); return {}; }, [Symbol.iterator]() { return this; } }; for (const v of it) { console.log(v); if (v === 1) break; }
// === generators
function* gen() { const got = yield 1; console.log('got', got); try { yield 2; } finally { console.log('cleanup'); } return 3; }
const g = gen(); console.log(g.next(), g.next('hi'), g.return(9), g.next());
function* inner() { const r = yield* [1, 2]; return 'r'; } function* outer2() { console.log(yield* inner()); yield* 'ab'; } console.log([...outer2()]);
// === generator throw
function* careful() { while (true) try { yield 'ok'; } catch (e) { console.log('caught', e); } } const cg = careful(); cg.next(); console.log(cg.throw('x'), cg.next());
// === fibonacci generator
function* fib() { let [a, b] = [0, 1]; while (true) { yield a; [a, b] = [b, a + b]; } } const out = []; for (const n of fib()) { if (n > 50) break; out.push(n); } console.log(out.join());
// === tagged templates
const tag = (s, ...v) => s.raw.join('|') + v.join(); console.log(tag`a${1}\n${2}c`, String.raw`\u00${0}`, `multi
line ${[1, 2]} ${{}}`); console.log(((s) => s[0])`\unicode`);
// === this binding
function who() { return this === undefined ? 'undefined' : typeof this; } const w = { who, arrow: () => typeof this, nested() { return [1].map(() => this === w); } };
console.log(w.who(), who.call(5), who.bind('x')(), w.nested(), new (function () { this.a = 1; })());
// === strict mode
'use strict'; try { undeclared = 1; } catch (e) { console.log(e.message); } (function () { console.log(this); })(); try { Object.freeze([1]).push(2); } catch (e) { console.log(e.message); }
// === sloppy mode
implicitGlobal = 5; console.log(implicitGlobal, delete globalThis.implicitGlobal, typeof implicitGlobal); console.log(010, (function () { return typeof this; })());
// === proxy
const log = []; const p = new Proxy({ a: 1 }, { get: (t, k, r) => (log.push(`get ${String(k)}`), Reflect.get(t, k, r)), has: (t, k) => k.startsWith('x'), set(t, k, v) { if (typeof v !== 'number') throw new TypeError('number!'); t[k] = v; return true; }, deleteProperty: () => true, ownKeys: () => ['a', 'z'], getOwnPropertyDescriptor: () => ({ enumerable: true, configurable: true }) });
p.b = 2; console.log(p.a, 'xa' in p, 'a' in p, Object.keys(p), log); try { p.c = 'x'; } catch (e) { console.log(e.message); }
// === reflect
class RB { constructor(x) { this.x = x; } } console.log(Reflect.construct(RB, [1]), Reflect.ownKeys({ b: 1, a: 2, 1: 3, [Symbol.iterator]: 4 }), Reflect.apply(Math.max, null, [1, 3]), Reflect.has({ q: 1 }, 'q'), Reflect.defineProperty({}, 'x', { value: 1 }));
// === object statics
console.log(Object.fromEntries([['a', 1]]), Object.groupBy ? 'has' : 'no', Object.entries('ab'), Object.assign({}, 'xy'), Object.getOwnPropertyNames('ab'), structuredClone({ d: new Date(0), m: new Map([[1, { a: [1] }]]) }));
// === freeze
const fr = Object.freeze({ n: { m: 1 } }); fr.n.m = 2; fr.x = 1; console.log(fr, Object.isFrozen(fr), Object.isSealed(Object.seal({})), Object.isExtensible(Object.preventExtensions({})));
// === array methods
const ar = [5, 1, 4, 2, 3]; console.log(ar.toSorted(), ar.at(-1), ar.findLast(v => v > 3), ar.with(0, 9), ar.toSpliced(1, 2), ar.flatMap(v => v > 3 ? [v, v] : []), [1, [2, [3, [4]]]].flat(Infinity), ar.reduceRight((a, v) => a + v, ''), [3, 20, 100].sort(), ar.includes(NaN), [NaN].includes(NaN), [NaN].indexOf(NaN));
console.log(Array.from({ length: 3 }, (_, i) => i ** 2), Array.of(7).fill(1), [1, 2, 3, 4, 5].copyWithin(0, 3), [, 1, , 2], Object.keys([, 1]), new Array(3), [1, 2, 3].entries().next(), [3, 1, 2].toReversed());
// === sort stability
const people = [['b', 2], ['a', 1], ['c', 2], ['d', 1]]; console.log(people.sort((p, q) => p[1] - q[1]).map(p => p[0]).join(''), ['é', 'z', 'a', 'Z'].sort((a, b) => a.localeCompare(b)), ['é', 'z', 'a', 'Z'].sort());
// === with eval
var ev = 1; console.log(eval('ev + 1'), eval('var ev2 = 3; ev2'), typeof ev2, new Function('a', 'b', 'return a * b')(3, 4), (0, eval)('typeof nothing'));
// === new target
function NT() { return new.target === NT; } console.log(NT(), new NT() instanceof NT, typeof new (class { constructor() { this.t = new.target.name; } })());
// === automatic semicolons
const asi = (() => { return
  5; })()
console.log(asi)
let i1 = 1
++i1
console.log(i1)
// === unicode identifiers
const π = Math.PI, ünï = 1, $ = 2, _ = 3, \u0061bc = 4; console.log(π.toFixed(3), ünï, $ + _, abc);
// === date and math
console.log(Math.sign(-3), Math.trunc(-4.7), Math.round(-0.5), Math.round(2.5), Math.hypot(3, 4), Math.cbrt(27), Math.clz32(1), Math.fround(5.5), Math.log2(8), Math.min(), Math.max());
// === json edges
console.log(JSON.stringify({ u: undefined, f() {}, s: Symbol('x'), n: NaN, i: -Infinity, d: new Date(0), a: [undefined, () => 1], nested: { toJSON(k) { return 'for ' + k; } }, '\u2028': '\ud800' }));
console.log(JSON.stringify([1, { b: 2, a: 1 }], null, 2), JSON.stringify({ a: 1, b: 2, c: { a: 3, d: 4 } }, ['a', 'c']), JSON.stringify({ a: 5, b: 'x' }, (k, v) => typeof v === 'number' ? v * 2 : v, '--'), JSON.parse('{"a":[1,{"b":null}]}', (k, v) => v === null ? 'nil' : v), JSON.parse('"\\u00e9"'), JSON.stringify('</script>'));
for (const bad of ['{a:1}', "{'a':1}", '[1,]', '', 'undefined', '{"a":1', '01']) try { JSON.parse(bad); } catch (e) { console.log(e.name, e.message); }
const circ = { name: 'c' }; circ.self = circ; try { JSON.stringify(circ); } catch (e) { console.log(e.message); }
