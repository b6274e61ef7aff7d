// The reader thread: reads descriptor 3 and stops the main thread. It must not write to the socket.
//
//   interrupt:  INTERRUPT 0 -> 1, message to the main thread
//               main is in its event loop: 1 -> 0, it ends the cell itself
//               main is busy:  1 -> 2 after GRACE_MS, wait for WRITING 0, Runtime.terminateExecution, then "absorb" until main has 2 -> 0
//
// Then it ends child processes that the cell started, first by SIGINT, then by SIGKILL.
"use strict";
const fs = require("node:fs");
const net = require("node:net");
const { Session } = require("node:inspector");
const { parentPort, workerData } = require("node:worker_threads");

const { shared, fd, pid } = workerData;
const INTERRUPT = 0;
const WRITING = 1;
const ANSWERED = 2;
const GRACE_MS = 15;
const POKE_MS = 10;
const KILL_MS = 250;
const CLOCK_TICKS = 100; // USER_HZ, the same on every Linux
let startedTicks = 0;
let runId; // of the last execute; an interrupt for another run comes too late

/** Descendants of this process that were started in a span of time (clock ticks since boot, the end not included). */
function children(since, until) {
  const parents = new Map();
  for (const name of fs.readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = fs.readFileSync(`/proc/${name}/stat`, "latin1");
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // from field 3: state, ppid, …, starttime is field 22
      parents.set(Number(name), { parent: Number(fields[1]), ticks: Number(fields[19]), state: fields[0] });
    } catch (error) {
      if (error.code !== "ENOENT" && error.code !== "ESRCH") throw error; // it has ended meanwhile
    }
  }
  const found = [];
  for (const [child, { ticks, state }] of parents) {
    let up = child;
    while (up > 1 && up !== pid) up = parents.get(up)?.parent ?? 0;
    if (up === pid && child !== pid && ticks >= since && ticks < until && state !== "Z") found.push(child);
  }
  return found;
}

function killChildren(signal, sinceTicks, untilTicks) {
  for (const child of children(sinceTicks, untilTicks)) {
    try {
      process.kill(child, signal);
    } catch (error) {
      if (error.code !== "ESRCH") throw error;
    }
  }
}

/** Terminate what the main thread runs. "absorb" takes the termination if nothing else does; main sets INTERRUPT to 0 when it is over. */
function terminate(id) {
  while (Atomics.load(shared, WRITING) === 1) Atomics.wait(shared, WRITING, 1, 1);
  const session = new Session();
  session.connectToMainThread();
  session.post("Runtime.evaluate", { expression: 'globalThis[Symbol.for("cloister.unguard")]()' });
  session.post("Runtime.terminateExecution");
  parentPort.postMessage({ op: "absorb", id });
  const poke = setInterval(() => {
    if (Atomics.load(shared, INTERRUPT) === 2) return parentPort.postMessage({ op: "absorb", id });
    clearInterval(poke);
    return session.disconnect();
  }, POKE_MS);
}

function interrupt(id) {
  if (Atomics.compareExchange(shared, INTERRUPT, 0, 1) !== 0) return; // one is under way
  Atomics.notify(shared, ANSWERED); // main may wait for an answer
  parentPort.postMessage({ op: "interrupt", id });
  Atomics.wait(shared, INTERRUPT, 1, GRACE_MS);
  // Terminate before the children end: the end of one throws in execSync, and V8 aborts when a termination meets the promise of that error.
  if (Atomics.compareExchange(shared, INTERRUPT, 1, 2) === 1) terminate(id);
  const since = startedTicks;
  killChildren("SIGINT", since, Infinity);
  setTimeout(() => killChildren("SIGKILL", since, startedTicks === since ? Infinity : startedTicks), KILL_MS);
}

function dispatch(line) {
  const message = JSON.parse(line);
  if (message.op === "ack") {
    Atomics.store(shared, ANSWERED, message.ack);
    return Atomics.notify(shared, ANSWERED);
  }
  if (message.op === "interrupt") return message.id === undefined || message.id === runId ? interrupt(message.id) : undefined;
  if (message.op === "renew") return parentPort.postMessage(message);
  runId = message.id;
  startedTicks = Math.floor(Number(fs.readFileSync("/proc/uptime", "latin1").split(" ")[0]) * CLOCK_TICKS);
  return parentPort.postMessage(message);
}

let parts = [];
const socket = new net.Socket({ fd, readable: true, writable: false });
socket.on("data", (chunk) => {
  for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10)) {
    parts.push(chunk.subarray(0, end));
    const line = Buffer.concat(parts).toString();
    parts = [];
    chunk = chunk.subarray(end + 1);
    dispatch(line);
  }
  if (chunk.length) parts.push(chunk);
});
socket.on("close", () => process.kill(pid, "SIGKILL")); // the agent is gone; the main thread may be in an endless loop
socket.on("error", () => socket.destroy());
