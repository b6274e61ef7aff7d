// The protocol socket seen from the main thread. It owns the writing side of descriptor 3 and the shared words by which the reader thread
// (reader.js) and this one agree about interrupts; it must not read the socket. Invariant: a line is written whole or not at all, because
// `terminateExecution` is only asked for while no write is under way, and no write starts once it has been asked for.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { Worker } = require("node:worker_threads");

const FD = 3;
const TEXT_LIMIT = 65536; // UTF-16 units in one stdout or stderr message
// Words of the shared state. INTERRUPT: 0 none, 1 wanted, 2 terminating; WRITING: 1 while a line is being written.
const INTERRUPT = 0;
const WRITING = 1;
const TERMINATING = 2;
const ABSORB_MS = 5; // many stack checks: a termination requested before is delivered within
const shared = new Int32Array(new SharedArrayBuffer(16));
let reader;

/** Start the reader thread; messages of the agent go to onMessage, interrupts to onInterrupt (main thread, from the event loop). */
function open(onMessage, onInterrupt) {
  reader = new Worker(path.join(__dirname, "reader.js"), { workerData: { shared, fd: FD, pid: process.pid }, env: {}, argv: [], execArgv: [] });
  reader.on("message", (message) => {
    if (message.op === "interrupt") {
      if (Atomics.compareExchange(shared, INTERRUPT, 1, 0) !== 1) return; // the reader has chosen to terminate: "absorb" follows
      Atomics.notify(shared, INTERRUPT);
      onInterrupt(message.id);
    } else if (message.op === "absorb") {
      if (!isTerminating()) return;
      spin(ABSORB_MS);
      Atomics.store(shared, INTERRUPT, 0);
      onInterrupt(message.id);
    } else {
      onMessage(message);
    }
  });
}

/** Whether an interrupt is under way: what user code answers now is its doing. */
const isInterrupted = () => Atomics.load(shared, INTERRUPT) !== 0;
const isTerminating = () => Atomics.load(shared, INTERRUPT) === TERMINATING;

/** Give a termination that is on its way something to terminate. Comes back only when it had been delivered before. */
function spin(milliseconds) {
  const end = Date.now() + milliseconds; // not performance.now(): Node loads that lazily, and a termination may have hit the loading
  while (Date.now() < end);
}

/** Whether the reader thread keeps the event loop alive: yes between cells; no in a cell, so that Node's own "beforeExit" tells its end. */
function keepAlive(yes) {
  if (yes) reader.ref();
  else reader.unref();
}

/** Write one message. Blocks while the agent does not read: that is the back-pressure. */
function send(message) {
  const line = Buffer.from(JSON.stringify(message) + "\n");
  Atomics.store(shared, WRITING, 1);
  while (isTerminating()) {
    Atomics.store(shared, WRITING, 0);
    spin(1);
    Atomics.store(shared, WRITING, 1);
  }
  writeAll(line);
  Atomics.store(shared, WRITING, 0);
}

function writeAll(line) {
  let offset = 0;
  let pause = 0.05;
  while (offset < line.length) {
    try {
      offset += fs.writeSync(FD, line, offset);
      pause = 0.05;
    } catch (error) {
      if (error.code !== "EAGAIN") process.reallyExit(0); // EPIPE: the agent is gone
      Atomics.wait(shared, 3, 0, pause); // nobody wakes word 3: a sleep
      pause = Math.min(pause * 2, 5);
    }
  }
}

/** Write text of a stream in messages of bounded size, never cutting a surrogate pair. */
function sendText(op, id, text) {
  for (let start = 0; start < text.length; ) {
    let end = Math.min(start + TEXT_LIMIT, text.length);
    const last = text.charCodeAt(end - 1);
    if (end < text.length && last >= 0xd800 && last < 0xdc00) end -= 1;
    send({ op, id, text: text.slice(start, end).toWellFormed() });
    start = end;
  }
}

module.exports = { open, isInterrupted, keepAlive, send, sendText };
