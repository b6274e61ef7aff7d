// === uncaught type error
function deep(x) {
  return x.missing.property;
}
console.log('before');
deep({});
// === uncaught reference error
console.log('a');

undefinedVariable + 1;
// === uncaught in async function
async function main() {
  await null;
  throw new RangeError('async boom');
}
main();
console.log('sync end');
// === uncaught in timer
setTimeout(() => {
  console.log('in timer');
  JSON.parse('{bad');
}, 2);
console.log('scheduled');
// === uncaught custom error
class HttpError extends Error {
  constructor(status, message) { super(message); this.name = 'HttpError'; this.status = status; }
}

throw new HttpError(404, 'Not Found');
// === uncaught with cause
try { null.x; } catch (e) {
  throw new Error('wrapped', { cause: e });
}
// === aggregate uncaught
Promise.any([Promise.reject(new Error('a')), Promise.reject(new Error('b'))]).then(console.log);
// === thrown string
console.log('x'); throw 'just text';
// === thrown object
throw { code: 42, message: 'obj' };
// === thrown undefined
throw undefined;
// === rejected with non error
Promise.reject('plain reason');
// === syntax missing bracket
console.log('never');
function f( {
  return 1;
}
// === syntax unexpected token
const a = 1;
const b = = 2;
// === syntax await in function
function notAsync() {
  await Promise.resolve();
}
// === syntax duplicate let
let dup = 1;
let dup = 2;
// === syntax unterminated string
const s = 'open;
console.log(s);
// === syntax bad regex
const r = /(/;
// === syntax invalid assignment
1 = 2;
// === syntax break outside
if (true) { break; }
// === syntax const without value
const empty;
// === syntax reserved word
const class = 1;
// === syntax json as code
{"a": 1, "b": [2]}
// === syntax unterminated template
const t = `never
closed
// === syntax strict octal
'use strict';
const o = 010;
// === syntax missing paren
console.log('a'
console.log('b');
// === syntax python by mistake
def f(x):
    return x + 1
// === syntax getter with parameter
const g = { get x(a) { return a; } };
// === runtime syntax errors
try { new Function('let x = ;'); } catch (e) { console.log(e.name, e.message); } try { eval('{'); } catch (e) { console.log(e.name, e.message); } try { JSON.parse('x'); } catch (e) { console.log(e.name); } throw new SyntaxError('own');
// === stack overflow
function rec(n) { return rec(n + 1) + 1; } try { rec(0); } catch (e) { console.log(e.name, e.message); } rec(0);
// === exit codes
console.log('a'); process.exitCode = 3; console.log('b');
// === exit now
console.log('a'); process.exit(5); console.log('never');
// === exit zero in timer
setTimeout(() => { console.log('bye'); process.exit(0); }, 2); setInterval(() => {}, 1000);
// === exit with handler
process.once('exit', c => console.log('exit handler', c)); process.exit(4);
// === exit in catch
(async () => { throw new Error('fatal'); })().catch(e => { console.error('Error:', e.message); process.exit(1); });
// === exit code by string
process.exitCode = '6';
// === error properties
try { require('fs').readFileSync('/no/such'); } catch (e) { console.log(e.code, e.errno, e.syscall, e.path, e.message); } try { [].reduce((a, b) => a); } catch (e) { console.log(e.message); } try { null[Symbol.iterator]; } catch (e) { console.log(e.message); } try { const [x] = undefined; } catch (e) { console.log(e.message); } try { ({}).x.y; } catch (e) { console.log(e.message); } try { new Array(-1); } catch (e) { console.log(e.name, e.message); } try { 'x'.repeat(-1); } catch (e) { console.log(e.message); } try { (1).toFixed(101); } catch (e) { console.log(e.message); } try { Symbol() + ''; } catch (e) { console.log(e.message); } try { x1(); var x1; } catch (e) { console.log(e.message); } try { ({}).f(); } catch (e) { console.log(e.message); } try { for (const q of 5); } catch (e) { console.log(e.message); } try { new (() => {})(); } catch (e) { console.log(e.message); } try { decodeURI('%'); } catch (e) { console.log(e.message); } try { BigInt(1.5); } catch (e) { console.log(e.message); }
// === missing file uncaught
const fs = require('fs');
fs.readFileSync('/definitely/missing.txt', 'utf8');
// === missing module
const missing = require('no-such-module-xyz');
// === assertion uncaught
const assert = require('assert');
assert.strictEqual(1, 2);
// === stack lines
function where() { return new Error('x').stack.split('\n')[1].match(/:(\d+):(\d+)\)?$/).slice(1).join(':'); }
console.log(where());
  const nested = () => where(); console.log(nested(), where.name);
// === stack trace parsed
const at = new Error('p').stack.split('\n').length > 1; console.log(at, Error.stackTraceLimit, typeof Error.captureStackTrace); function skip() { const o = {}; Error.captureStackTrace(o, skip); return o.stack.split('\n')[0]; } console.log(skip()); Error.stackTraceLimit = 1; console.log(new Error('one').stack.split('\n').length); Error.stackTraceLimit = 10;
// === prepare stack trace
const prep = Error.prepareStackTrace; Error.prepareStackTrace = (e, s) => s.map(c => c.getLineNumber()); function pf() { return new Error('z').stack[0]; } console.log(pf()); Error.prepareStackTrace = prep;
// === uncaught handler alone
process.on('uncaughtException', (e, origin) => { console.log('handled', e.message, origin); process.exitCode = 9; }); setTimeout(() => console.log('still running'), 5); throw new Error('top');
// === rejection handler alone
process.on('unhandledRejection', (r, p) => console.log('unhandled', r.message, p instanceof Promise)); Promise.reject(new Error('nobody')); setTimeout(() => console.log('goes on'), 3);
// === finally and rethrow
function t(n) { try { if (n) throw new Error('t' + n); return 'ok'; } catch (e) { if (n > 1) throw new Error('again', { cause: e }); return e.message; } finally { console.log('f', n); } }
console.log(t(0), t(1));
t(2);
// === error event uncaught
const E = require('events'); new E().emit('error', new Error('no listener'));
// === deprecated and warnings alone
process.emitWarning('careful', 'CustomWarning', 'C001'); console.log('after'); new Promise((_, j) => j(1)).catch(() => {});
// === invalid arguments
Buffer.alloc('x');
// === error to string
const er = new Error('m'); er.name = 'Custom'; console.log(String(er), Object.prototype.toString.call(er), er instanceof Error, Error('without new').message, new Error(undefined).message, 'message' in new Error(), new Error({}).message, Object.keys(new Error('x', { cause: 1 }))); console.log(new DOMException('dm', 'AbortError').name, new DOMException('dm', 'AbortError').code);
