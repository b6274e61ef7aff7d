// The protocol socket in the main thread. It owns the writing side of descriptor 3, and the shared words by which the reader thread
// (reader.js) and this one agree about interrupts. It must not read the socket. Invariant: a line is written completely or not at all. The
// reader calls `terminateExecution` only while no write is running, and no write starts after it. The same holds for waits.
"use strict";
const { Atomics, Buffer, Date, Int32Array, JSON, Math, SharedArrayBuffer, process } = require("./builtins.js");
const fs = require("node:fs");
const path = require("node:path");
const { Worker } = require("node:worker_threads");

const FD = 3;
const TEXT_LIMIT = 65536; // UTF-16 units in one stdout or stderr message
// Words of the shared state. INTERRUPT: 0 none, 1 wanted, 2 terminating; WRITING: 1 while a line is being written or an answer awaited;
// ANSWERED: the last number that the agent answered.
const INTERRUPT = 0;
const WRITING = 1;
const ANSWERED = 2;
const TERMINATING = 2;
const ABSORB_MS = 5; // many stack checks: a termination requested before is delivered within
const shared = new Int32Array(new SharedArrayBuffer(16));
const LAST_NUMBER = 2 ** 30;
const ANSWER_POLL_MS = 20;
let reader;
let asked = 0; // the last number that was sent
let isAhead = false; // whether messages were sent that the agent may not have taken yet

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

/** Run what no termination may hit: a write, or a wait of this thread (V8 11 may never come back from a wait that is terminated). */
function guarded(fn) {
  Atomics.store(shared, WRITING, 1);
  while (isTerminating()) {
    Atomics.store(shared, WRITING, 0);
    spin(1);
    Atomics.store(shared, WRITING, 1);
  }
  fn();
  Atomics.store(shared, WRITING, 0);
}

/** Write one message. Blocks while the agent does not read: that is the back-pressure. */
function send(message) {
  const line = Buffer.from(JSON.stringify(message) + "\n");
  guarded(() => writeAll(line));
  isAhead = true;
}

/** Write one message and wait until the agent has taken it. An interrupt ends the wait; the reader wakes it, or at the latest the poll does. */
function sendAwaited(message) {
  asked = (asked % LAST_NUMBER) + 1;
  send({ ...message, ack: asked });
  guarded(() => {
    for (let seen = Atomics.load(shared, ANSWERED); seen !== asked && !isInterrupted(); seen = Atomics.load(shared, ANSWERED)) {
      Atomics.wait(shared, ANSWERED, seen, ANSWER_POLL_MS);
    }
  });
  isAhead = false;
}

/** Wait until the agent has taken all messages. "ready" says nothing more in a run. */
function settle() {
  if (isAhead) sendAwaited({ op: "ready" });
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
      Atomics.wait(shared, 3, 0, pause); // no thread wakes word 3: a sleep
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

module.exports = { open, isInterrupted, keepAlive, send, sendAwaited, sendText, settle };
