// Values as MIME bundles. It must not change a value. A rich value has a method named Symbol.for("Jupyter.display") (Deno's convention),
// which gives a bundle {mime: content}, or a promise of one.
"use strict";
const { Array, ArrayBuffer, Buffer, Number, Object, Set, Symbol, TypeError, clearImmediate, clearTimeout, setImmediate, setTimeout } = require("./builtins.js");
const { EventEmitter } = require("node:events");
const util = require("node:util");

const DISPLAY = Symbol.for("Jupyter.display");
const pastTimer = setTimeout(() => {});
const Timeout = pastTimer.constructor;
clearTimeout(pastTimer);
const pastImmediate = setImmediate(() => {});
const Immediate = pastImmediate.constructor;
clearImmediate(pastImmediate);
const JSON_NODES = 100000; // larger values come as text only

/** The bundle of a value, or a promise of it when the value's own display is asynchronous. */
function bundleOf(value) {
  const display = value !== null && (typeof value === "object" || typeof value === "function") ? value[DISPLAY] : undefined;
  if (typeof display === "function") {
    const bundle = display.call(value);
    return util.types.isPromise(bundle) ? bundle.then(checked) : checked(bundle);
  }
  const depth = value instanceof EventEmitter ? -1 : undefined; // a request or server by its name, without its fields
  const bundle = { "text/plain": util.inspect(value, { colors: false, ...(depth && { depth }) }) };
  if (isContainer(value) && isJson(value)) bundle["application/json"] = value;
  return bundle;
}

/** Whether a value is worth a result: not undefined, and not the timer that a last setTimeout() gives. */
const isShown = (value) => value !== undefined && !(value instanceof Timeout) && !(value instanceof Immediate);

function checked(bundle) {
  if (!isContainer(bundle) || Array.isArray(bundle)) throw new TypeError('Symbol.for("Jupyter.display") must give an object {mime type: content}');
  return Object.fromEntries(Object.entries(bundle).map(([mime, content]) => [mime, ArrayBuffer.isView(content) ? base64(content) : content]));
}

const base64 = (view) => Buffer.from(view.buffer, view.byteOffset, view.byteLength).toString("base64");

function isContainer(value) {
  if (value === null || typeof value !== "object") return false;
  if (Array.isArray(value)) return true;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Whether JSON says all of it: plain containers of strings, finite numbers, booleans and null, no cycle, not too many. */
function isJson(root) {
  const above = new Set();
  let nodes = 0;
  const walk = (value) => {
    if (++nodes > JSON_NODES) return false;
    if (value === null || typeof value === "string" || typeof value === "boolean") return true;
    if (typeof value === "number") return Number.isFinite(value);
    if (!isContainer(value) || above.has(value) || above.size > 200 || typeof value.toJSON === "function") return false;
    above.add(value);
    const fine = Object.values(value).every(walk) && (!Array.isArray(value) || Object.keys(value).length === value.length);
    above.delete(value);
    return fine;
  };
  return walk(root);
}

module.exports = { bundleOf, isShown };
