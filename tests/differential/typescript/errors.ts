// === uncaught on its line
interface A { x: number }

type B = A & { y: string };
function fail(b: B): never {
  throw new TypeError(`bad ${b.y}`);
}
console.log('before');
fail({ x: 1, y: 'why' });
// === uncaught behind an enum
enum Color { Red, Green }
enum Long {
  A = 'a',
  B = 'b',
}

const c: Color = Color.Green;
(undefined as any).boom(c, Long.A);
// === uncaught in a class
class Svc {
  constructor(private readonly name: string, public n: number = 1) {}
  run(): void {
    if (this.n > 0) throw new RangeError(this.name);
  }
}
new Svc('svc').run();
// === uncaught in async code
async function load(id: number): Promise<string> {
  await Promise.resolve();
  if (id < 0) throw new Error(`no ${id}`);
  return 'x';
}
(async (): Promise<void> => {
  console.log(await load(1));
  await load(-1);
})();
// === uncaught in a namespace
namespace N {
  export interface I { a: number }
  export function f(i: I): number {
    return i.a.toFixed(200).length;
  }
}
N.f({ a: 1 });
// === uncaught with decorators
// experimentalDecorators
function dec(t: any, k: string) { console.log(k); }
class D {
  @dec a: number = 1;
  @dec
  b: string = 'x';
}
console.log(new D());
throw new Error('after decorators');
// === uncaught custom error
class HttpError extends Error {
  constructor(public status: number, message: string) {
    super(message);
    this.name = 'HttpError';
  }
}

throw new HttpError(404, 'Not Found');
// === cause
try { JSON.parse('{') as unknown; } catch (e: unknown) {
  throw new Error('config', { cause: e });
}
// === rejected promise
const p: Promise<number> = Promise.reject(new RangeError('rejected'));
// === thrown literal
throw 'literal' as string;
// === exit code
process.exitCode = 2; const done: boolean = true; console.log(done);
// === exit in catch
async function main2(): Promise<void> { throw new Error('x'); } main2().catch((e: Error) => { console.error(e.message); process.exit(3); });
// === syntax missing type
const ok: number = 1;
let bad: = 2;
// === syntax missing paren
function f(a: number {
  return a;
}
// === syntax missing brace
interface A {
  x: number
console.log(1);
// === syntax unexpected
const a: number = = 5;
// === syntax unterminated
const s: string = 'open;
// === syntax enum
enum { A }
// === syntax generic
function g<T(x: T): T { return x; }
// === syntax bad arrow
const h = (a: number): => a;
// === syntax python
def f(x: int) -> int:
    return x
// === stack lines
type T1 = { a: string };
type T2 = { b: string };
function where(): string { return new Error('x').stack!.split('\n')[1]!.match(/:(\d+):\d+\)?$/)![1]!; }
console.log(where());
const again = (): string => where();
console.log(again());
// === errors caught by kind
const kinds: Record<string, () => unknown> = { type: () => (null as any).x, range: () => 'x'.repeat(-1), ref: () => (globalThis as any).nope.x, syntax: () => new Function('let = ;'), uri: () => decodeURIComponent('%'), custom: () => { throw Object.assign(new Error('c'), { code: 'E' }); } }; for (const [k, f] of Object.entries(kinds)) try { f(); } catch (e) { const er = e as Error & { code?: string }; console.log(k, er.name, er.message, er.code); }
// === assertion functions
function assert(c: unknown, m = 'assertion failed'): asserts c { if (!c) throw new Error(m); } function defined<T>(v: T | undefined): asserts v is T { assert(v !== undefined, 'undefined!'); } const v: number | undefined = [1].find(x => x > 5);
defined(v);
console.log('never');
// === unhandled in timer
setTimeout((): void => {
  const x: { y?: { z: number } } = {};
  console.log(x.y!.z);
}, 1);
