// The resources for which a cell still waits. It owns the async hook, and must not keep a resource alive. A resource that was ref'd when the
// cell began is background, and so are resources of background callbacks: a server or timer of an earlier cell never delays a later one.
//
//   hold        one-shot timers, requests of HTTP and others, child processes, file, DNS, zlib and crypto requests, message ports
//   interval    intervals and UDP sockets: waited for a while once nothing else is left, not at all beside a listening server
//   connection  other connections: waited for a while when nothing moves on them
//   background  listening servers, the connections they accept, children that listen, file watchers: never waited for
//   ignored     resources that are unref'd
//
// "A while" is SHORT_MS, or LONG_MS if the cell's code has a word that may end such a resource.
"use strict";
const { Boolean, Map, Math, Object, Symbol, clearImmediate, clearTimeout } = require("./builtins.js");
const { createHook, executionAsyncId } = require("node:async_hooks");
const order = require("./order.js");
const { listens } = require("./servers.js");

const SHORT_MS = 1000;
const LONG_MS = 10000;
const INTERVAL_ENDS = /\b(?:clear(?:Interval|Timeout)|close|dispose|exit|unref)\b/;
const CONNECTION_ENDS = /\b(?:abort|close|destroy\w*|disconnect|end|exit|quit|terminate|unref)\b/;
const HTTP_SYMBOLS = ["client", "parser"]; // of undici on the sockets that it uses
const KINDS = new Map(Object.entries({
  Timeout: "timer", Immediate: "timer",
  TCPWRAP: "connection", PIPEWRAP: "connection", PROCESSWRAP: "child", TTYWRAP: "handle", MESSAGEPORT: "handle", WORKER: "worker",
  UDPWRAP: "udp",
  TCPSERVERWRAP: "server", PIPESERVERWRAP: "server",
  FSEVENTWRAP: "watcher", STATWATCHER: "watcher",
  FSREQCALLBACK: "request", FSREQPROMISE: "request", GETADDRINFOREQWRAP: "request", GETNAMEINFOREQWRAP: "request", QUERYWRAP: "request",
  ZLIB: "zlib",
}));
const HANDLES = ["handle", "connection", "child", "udp", "server", "watcher"];
const PURGE_AT = 4096;
const live = new Map(); // async id -> {kind, resource, background}
let purgeAt = PURGE_AT;
let suspended = false;
let unguard;
let quieten; // take promises out of the hook again, when user code's hooks put them in and are gone

const hook = createHook({
  init(id, type, trigger, resource) {
    if (type === "TickObject" || type === "PROMISE" || suspended) return;
    const kind = KINDS.get(type) ?? (type.endsWith("REQUEST") && type !== "HTTPCLIENTREQUEST" ? "job" : undefined);
    if (kind === undefined) return;
    const accepted = live.get(trigger)?.kind === "server";
    live.set(id, { kind, resource, background: accepted || Boolean(live.get(executionAsyncId())?.background) });
    if (live.size > purgeAt) purge();
  },
  after(id) {
    const kind = live.size ? live.get(id)?.kind : undefined;
    if (kind === "request" || kind === "job") live.delete(id);
  },
});

/** Start counting. Promises are left out of the hook: they would slow every `await` and show the hook's ids when printed. */
function install() {
  hook.enable();
  const binding = order.binding("async_wrap");
  quieten = () => {
    if (binding.async_hook_fields[binding.constants.kInit] === 1) binding.setPromiseHooks(undefined, undefined, undefined, undefined);
  };
  quieten();
  // A termination skips the bookkeeping of the callback it hits; Node must not take that for a corrupted stack and abort. Called by reader.js.
  // Nor may it find the ids of what was cut off.
  unguard = () => {
    binding.async_hook_fields[binding.constants.kCheck] = 0;
    binding.clearAsyncIdStack();
  };
  Object.defineProperty(globalThis, Symbol.for("cloister.unguard"), { value: unguard });
  unguard();
}

function isAlive({ kind, resource }) {
  if (kind === "timer") return !resource._destroyed && resource.hasRef();
  if (kind === "zlib") return Boolean(resource.buffer);
  if (kind === "job") return typeof resource.ondone === "function"; // a job that ran at once has none
  if (kind === "request") return true;
  if (kind === "worker" && typeof resource.onexit !== "function") return false; // it has ended
  return typeof resource.hasRef === "function" && resource.hasRef();
}

/** Whether it may come alive again: an unref'd timer, an idle kept-alive connection that the next request takes. */
const isDormant = ({ kind, resource }) => (kind === "timer" ? !resource._destroyed : kind !== "request" && resource.fd >= 0);

/** Forget what is over. */
function purge() {
  for (const [id, entry] of live) if (!isAlive(entry) && !isDormant(entry)) live.delete(id);
  purgeAt = Math.max(PURGE_AT, live.size * 2);
}

/** A cell begins: what is still there belongs to the background. An idle kept-alive connection is unref'd, and so is not. */
function begin() {
  quieten();
  for (const entry of live.values()) if (isAlive(entry)) entry.background = true;
}

function classOf(entry) {
  const { kind, resource } = entry;
  if (kind === "udp" || (kind === "timer" && resource._repeat)) return "interval";
  if (kind === "connection") return isBusy(ownerOf(resource)) ? "hold" : "connection";
  if (kind === "child") return listens(resource.pid) ? "background" : "hold";
  if (kind === "server" || kind === "watcher") return "background";
  return "hold";
}

/** Whether a socket is being connected or has an HTTP request under way; an idle one that is kept alive is unref'd. */
function isBusy(socket) {
  if (socket?.connecting || socket?._httpMessage) return true;
  return Object.getOwnPropertySymbols(socket ?? {}).some((symbol) => HTTP_SYMBOLS.includes(symbol.description) && socket[symbol]);
}

/** How many live resources of the running cell there are of each class, those of the background (`earlier`), and what has moved on connections. */
function census() {
  const counts = { hold: 0, interval: 0, connection: 0, background: 0, earlier: 0, moved: 0 };
  for (const entry of live.values()) {
    if (!isAlive(entry)) continue;
    const name = entry.background ? "earlier" : classOf(entry);
    counts[name] += 1;
    if (name === "connection") counts.moved += (entry.resource.bytesRead ?? 0) + (entry.resource.bytesWritten ?? 0);
  }
  return counts;
}

/** How long to wait for what is left in a census, of a cell with that code. */
function patience({ interval, connection }, code) {
  return (interval > 0 && INTERVAL_ENDS.test(code)) || (connection > 0 && CONNECTION_ENDS.test(code)) ? LONG_MS : SHORT_MS;
}

/** Stop everything that the running cell left: timers are cleared, handles closed. */
function cancel() {
  for (const [id, entry] of live) {
    if (entry.background) continue;
    live.delete(id);
    if (entry.kind === "timer") cancelTimer(entry.resource);
    else if (entry.kind === "worker") ownerOf(entry.resource)?.terminate?.();
    else if (HANDLES.includes(entry.kind)) close(entry.resource);
  }
}

function cancelTimer(timer) {
  if (timer.constructor.name === "Immediate") clearImmediate(timer);
  else clearTimeout(timer);
}

/** The JavaScript object of a handle, or undefined. */
function ownerOf(handle) {
  const symbol = Object.getOwnPropertySymbols(handle).find((one) => one.description === "owner_symbol");
  return symbol === undefined ? undefined : handle[symbol];
}

function close(handle) {
  const owner = ownerOf(handle);
  if (typeof owner?.destroy === "function") owner.destroy();
  else if (typeof owner?.close === "function") owner.close();
  else if (typeof handle.close === "function" && handle.constructor.name !== "Process") handle.close();
}

/** Run fn with nothing that it starts counted: for the driver's own timers. */
function unseen(fn) {
  suspended = true;
  try {
    return fn();
  } finally {
    suspended = false;
  }
}

module.exports = { LONG_MS, install, unguard: () => unguard(), begin, unseen, census, patience, purge, cancel };
