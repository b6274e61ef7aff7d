// The globals as they were before any cell. All code of this process sees a cell's `const process` or `class Map`. The driver and the
// compilers must use the language's own, so each of their files takes its globals from here.
"use strict";
const NAMES = [
  "Array", "ArrayBuffer", "Atomics", "BigInt", "Boolean", "Buffer", "Date", "Error", "Function", "Infinity", "Int32Array", "JSON", "Map", "Math", "NaN",
  "Number", "Object", "Promise", "Proxy", "RangeError", "Reflect", "RegExp", "Set", "SharedArrayBuffer", "String", "Symbol", "SyntaxError", "TypeError",
  "Uint8Array", "WeakMap", "WeakSet", "clearImmediate", "clearTimeout", "console", "isNaN", "parseFloat", "parseInt", "performance", "process",
  "queueMicrotask", "setImmediate", "setTimeout",
]; // prettier-ignore

module.exports = Object.fromEntries(NAMES.map((name) => [name, globalThis[name]]));
