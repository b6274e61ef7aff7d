// What a cell has left to wait for. It owns the async hook; it must not keep a resource alive. What was there and ref'd when the cell began
// is background, and so is what background callbacks make: a server or timer of an earlier cell never delays a later one.
//
//   hold        one-shot timers, connections, child processes, file, DNS, zlib and crypto requests, message ports
//   linger      intervals and UDP sockets: waited for, but at most LINGER_MS once nothing else is left (not at all beside a listening server)
//   background  listening servers, the connections they accept, file watchers: never waited for
//   ignored     whatever is unref'd
"use strict";
const { createHook, executionAsyncId } = require("node:async_hooks");

const LINGER_MS = 10000;
const KINDS = new Map(Object.entries({
  Timeout: "timer", Immediate: "timer",
  TCPWRAP: "handle", PIPEWRAP: "handle", PROCESSWRAP: "handle", TTYWRAP: "handle", MESSAGEPORT: "handle",
  UDPWRAP: "udp",
  TCPSERVERWRAP: "server", PIPESERVERWRAP: "server",
  FSEVENTWRAP: "watcher", STATWATCHER: "watcher",
  FSREQCALLBACK: "request", FSREQPROMISE: "request", GETADDRINFOREQWRAP: "request", GETNAMEINFOREQWRAP: "request", QUERYWRAP: "request",
  ZLIB: "zlib",
}));
const HANDLES = ["handle", "udp", "server", "watcher"];
const PURGE_AT = 4096;
const live = new Map(); // async id -> {kind, resource, background}
let purgeAt = PURGE_AT;
let suspended = false;
let unguard;

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
  const { noDeprecation } = process;
  process.noDeprecation = true;
  const binding = process.binding("async_wrap");
  process.noDeprecation = noDeprecation;
  binding.setPromiseHooks(undefined, undefined, undefined, undefined);
  // A termination skips the bookkeeping of the callback it hits; Node must not take that for a corrupted stack and abort. Called by reader.js.
  unguard = () => { binding.async_hook_fields[binding.constants.kCheck] = 0; };
  Object.defineProperty(globalThis, Symbol.for("cloister.unguard"), { value: unguard });
  unguard();
}

function isAlive({ kind, resource }) {
  if (kind === "timer") return !resource._destroyed && resource.hasRef();
  if (kind === "zlib") return Boolean(resource.buffer);
  if (kind === "job") return typeof resource.ondone === "function"; // a job that ran at once has none
  if (kind === "request") return true;
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
  for (const entry of live.values()) if (isAlive(entry)) entry.background = true;
}

function classOf({ kind, resource }) {
  if (kind === "udp" || (kind === "timer" && resource._repeat)) return "linger";
  if (kind === "server" || kind === "watcher") return "background";
  return "hold";
}

/** How many live resources of the running cell there are of each class, and (`earlier`) of the background. */
function census() {
  const counts = { hold: 0, linger: 0, background: 0, earlier: 0 };
  for (const entry of live.values()) if (isAlive(entry)) counts[entry.background ? "earlier" : classOf(entry)] += 1;
  return counts;
}

/** Stop everything that the running cell left: timers are cleared, handles closed. */
function cancel() {
  for (const [id, entry] of live) {
    if (entry.background) continue;
    live.delete(id);
    if (entry.kind === "timer") cancelTimer(entry.resource);
    else if (HANDLES.includes(entry.kind)) close(entry.resource);
  }
}

function cancelTimer(timer) {
  if (timer.constructor.name === "Immediate") clearImmediate(timer);
  else clearTimeout(timer);
}

function close(handle) {
  const symbol = Object.getOwnPropertySymbols(handle).find((one) => one.description === "owner_symbol");
  const owner = symbol === undefined ? undefined : handle[symbol];
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

module.exports = { LINGER_MS, install, unguard: () => unguard(), begin, unseen, census, purge, cancel };
