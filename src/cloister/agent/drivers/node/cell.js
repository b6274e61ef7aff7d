// One run of code: from the request to "done". It owns the inspector session and the order of a run's messages; it must not touch the socket
// but through channel.js. Invariant: a run ends once, with "done" as its last message, and its environment variables are gone by then.
//
//   begin -> evaluate (await of the top level included) -> settle (pending.js) -> finish
//                 interrupt, from any of them ------------------------------------^
"use strict";
const { Session } = require("node:inspector");
const util = require("node:util");
const channel = require("./channel.js");
const errors = require("./errors.js");
const pending = require("./pending.js");
const { bundleOf, isShown } = require("./results.js");
const { bindModules, readings } = require("./transform.js");

const FIRST_POLL_MS = 1;
const LAST_POLL_MS = 20;
const session = new Session();
let taken; // the value that the inspector hands over
let count = 0;
let current; // the running cell
let lastId = 0;

class Cell {
  constructor({ id, code, language, envs }) {
    Object.assign(this, { id, code, language, envs: envs ?? {}, finished: false, evaluated: false, failed: false, value: undefined });
    this.count = ++count;
    this.name = `cell-${count}.${language === "typescript" ? "ts" : "js"}`;
    this.saved = new Map();
    this.poll = FIRST_POLL_MS;
  }

  begin() {
    for (const [name, value] of Object.entries(this.envs)) {
      this.saved.set(name, process.env[name]);
      process.env[name] = value;
    }
    channel.keepAlive(false);
    pending.begin();
    this.attempts = readings(this.code, this.language, this.name);
    this.evaluate();
  }

  /** Give V8 the next reading of the code. */
  evaluate() {
    const { value: reading } = this.attempts.next();
    if (reading === undefined) return this.refuse();
    if (reading.refusal) {
      this.refusal ??= reading.refusal;
      return this.evaluate();
    }
    const text = bindModules(reading.text);
    errors.remember(this.name, this.code, reading.mapOf);
    const expression = `${text}\n//# sourceURL=${this.name}`;
    const answered = (error, answer) => this.answered(error, answer);
    const request = { expression, replMode: true, awaitPromise: true, objectGroup: "cell" };
    return session.post("Runtime.evaluate", request, answered);
  }

  answered(failure, answer) {
    if (this.finished || this.exiting || channel.isInterrupted()) return;
    const details = answer?.exceptionDetails;
    if (failure) return this.fail({ name: "Error", value: failure.message, traceback: failure.message });
    if (details?.scriptId !== undefined && details.exception?.className === "SyntaxError") {
      const message = details.exception.description.split("\n")[0].replace(/^SyntaxError: /, "");
      this.refusal ??= { message, line: details.lineNumber, column: details.columnNumber };
      return this.evaluate();
    }
    const thing = fetch(details ? details.exception : answer.result);
    this.evaluated = true;
    if (details) this.fail(errors.describe(thing));
    else this.succeed(thing);
    return this.settle();
  }

  /** No reading was accepted: report what was wrong with the first. */
  refuse() {
    this.evaluated = true;
    this.fail(errors.describeSyntax(this.refusal, this.name, this.code));
    this.finish();
  }

  /** Show the value of the last expression; a promise is shown when it has settled. */
  succeed(value) {
    if (util.types.isPromise(value)) {
      this.promise = value;
      value.then((result) => this.resolved(result), (reason) => this.rejected(reason));
    } else {
      this.show(value);
    }
  }

  resolved(value) {
    if (this.finished) return;
    this.promise = undefined;
    this.show(value);
    this.settle();
  }

  rejected(reason) {
    if (this.finished) return;
    this.promise = undefined;
    this.fail(errors.describe(reason));
    this.settle();
  }

  show(value) {
    if (!isShown(value)) return;
    try {
      const bundle = bundleOf(value);
      if (util.types.isPromise(bundle)) this.succeedLater(bundle);
      else this.result(bundle);
    } catch (error) {
      this.fail(errors.describe(error));
    }
  }

  succeedLater(bundle) {
    this.promise = bundle;
    bundle.then(
      (data) => {
        if (this.finished) return;
        this.promise = undefined;
        this.result(data);
        this.settle();
      },
      (reason) => this.rejected(reason),
    );
  }

  result(data) {
    channel.send({ op: "result", id: this.id, main: true, data, extra: {} });
  }

  /** Report an error; the second and later ones of a run go to stderr. */
  fail(description) {
    if (this.failed) return channel.sendText("stderr", this.id, `${description.traceback}\n`);
    this.failed = true;
    return channel.send({ op: "error", id: this.id, ...description });
  }

  /** Finish when nothing is left to wait for; look again later otherwise. */
  settle() {
    if (this.finished || this.waiting) return;
    this.waiting = true;
    pending.unseen(() => setImmediate(() => this.look()));
  }

  look() {
    this.waiting = false;
    if (this.finished) return;
    if (this.isSettled()) return void this.finish();
    this.waiting = true;
    pending.unseen(() => setTimeout(() => this.look(), this.poll).unref());
    this.poll = Math.min(this.poll * 2, LAST_POLL_MS);
  }

  isSettled() {
    const { hold, linger, background, earlier } = pending.census();
    if (hold > 0) this.lingerSince = undefined;
    if (hold > 0) return false;
    if (this.promise && !background && !linger && !earlier) return false; // it settles now, or drained() is next
    if ((!linger && !this.promise) || background) return true;
    this.lingerSince ??= Date.now();
    return Date.now() - this.lingerSince >= pending.LINGER_MS;
  }

  /** Nothing keeps the event loop alive any more: whatever the cell still waits for can never come. */
  drained() {
    if (this.finished) return;
    if (!this.evaluated) {
      const value = "top-level await never settles: nothing is left that could settle it";
      this.fail({ name: "Error", value, traceback: `Error: ${value}` });
    }
    this.finish();
  }

  interrupt() {
    if (this.finished) return;
    pending.cancel();
    this.failed = false;
    this.fail({ name: "KeyboardInterrupt", value: "interrupted", traceback: "KeyboardInterrupt: interrupted" });
    this.finish();
  }

  /** process.exit of user code: ends the cell, not the kernel. */
  exit(code) {
    if (this.finished) return;
    pending.cancel();
    this.promise = undefined;
    const value = `exit code ${code}`;
    if (code !== 0) this.fail({ name: "SystemExit", value, traceback: `SystemExit: ${value}` });
    this.finish();
  }

  finish() {
    if (this.promise && !this.failed) this.result({ "text/plain": util.inspect(this.promise) }); // still pending
    this.finished = true;
    current = undefined;
    for (const [name, value] of this.saved) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    pending.purge();
    channel.keepAlive(true);
    channel.send({ op: "done", id: this.id, count: this.count });
  }
}

/** The value behind an inspector's remote object. */
function fetch(remote) {
  if (remote.objectId === undefined) {
    if (remote.type === "bigint") return BigInt(remote.unserializableValue.slice(0, -1));
    if (remote.unserializableValue !== undefined) return Number(remote.unserializableValue);
    return remote.type === "undefined" ? undefined : remote.value;
  }
  const functionDeclaration = "function (take) { take(this); }";
  session.post("Runtime.callFunctionOn", { objectId: remote.objectId, functionDeclaration, arguments: [{ objectId: takerId }], silent: true });
  session.post("Runtime.releaseObjectGroup", { objectGroup: "cell" });
  const value = taken;
  taken = undefined;
  return value;
}

let takerId;

/** Connect the inspector; once. */
function install() {
  session.connect();
  const key = Symbol.for("cloister.taker");
  globalThis[key] = (value) => { taken = value; };
  session.post("Runtime.evaluate", { expression: 'globalThis[Symbol.for("cloister.taker")]' }, (_, { result }) => { takerId = result.objectId; });
  delete globalThis[key];
  process.exit = exit;
  process.on("beforeExit", () => current?.drained());
  process.on("uncaughtException", (error) => report("uncaughtException", error));
  process.on("unhandledRejection", (reason) => report("unhandledRejection", reason));
}

/** Unwind whatever calls process.exit in a cell; the cell ends from the event loop. Between cells it is Node's own. */
function exit(code = process.exitCode ?? 0) {
  const cell = current;
  if (!cell) return process.reallyExit(Number(code));
  cell.exiting = true;
  process.exitCode = undefined;
  process.emit("exit", Number(code));
  pending.unseen(() => setImmediate(() => cell.exit(Number(code))));
  pending.unguard();
  session.post("Runtime.terminateExecution");
  for (;;);
}

/** An error that nobody caught: the running cell's, or a line on stderr when none runs. */
function report(event, thrown) {
  if (process.listenerCount(event) > 1) return; // the user's own handler has it
  const description = errors.describe(thrown);
  if (current) current.fail(description);
  else channel.sendText("stderr", lastId, `${description.traceback}\n`);
}

function execute(request) {
  lastId = request.id;
  current = new Cell(request);
  current.begin();
}

/** End the running cell when the id is its own. */
function interrupt(id) {
  if (current && (id === undefined || id === current.id)) current.interrupt();
}

const runId = () => lastId;

module.exports = { install, execute, interrupt, runId };
