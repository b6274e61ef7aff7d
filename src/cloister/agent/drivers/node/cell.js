// One run of code: from the request to "done". It owns the inspector session and the order of a run's messages, and uses the socket only
// through channel.js. Invariant: a run ends once, with "done" as its last message; its environment variables are restored before.
//
//   begin -> evaluate (await of the top level included) -> settle (pending.js) -> finish
//                 interrupt, from any of them ------------------------------------^
"use strict";
const { BigInt, Boolean, Date, Map, Math, Number, Object, Promise, Symbol, process, setImmediate, setTimeout } = require("./builtins.js");
const { Session } = require("node:inspector");
const util = require("node:util");
const channel = require("./channel.js");
const errors = require("./errors.js");
const pending = require("./pending.js");
const { bundleOf, isShown } = require("./results.js");
const { takeReturn } = require("./modules.js");
const { carryOn, redeclare } = require("./redeclare.js");
const { bindModules, bindReturns, refusalOf } = require("./statements.js");
const streams = require("./streams.js");
const { readings } = require("./transform.js");

const FIRST_POLL_MS = 1;
const LAST_POLL_MS = 20;
const REDECLARED = /^Identifier '.*' has already been declared$/;
const MODULE_ONLY = /^(?:Cannot use (?:import statement|'import\.meta') outside a module|Unexpected token 'export')$/;
const RETURNED = /^Illegal return statement$/;
const session = new Session();
const UNCAUGHT = ["uncaughtException", "unhandledRejection"];
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
    this.listeners = new Map(UNCAUGHT.map((name) => [name, process.listenerCount(name)]));
  }

  begin() {
    for (const [name, value] of Object.entries(this.envs)) {
      this.saved.set(name, process.env[name]);
      process.env[name] = value;
    }
    channel.keepAlive(false);
    streams.begin();
    pending.begin();
    this.attempts = readings(this.code, this.language, this.name);
    this.evaluate();
  }

  /** Give V8 the next reading of the code. */
  evaluate() {
    const { value: reading } = this.attempts.next();
    if (reading === undefined) return this.refuse();
    if (reading.refusal) {
      if (reading.isFinal) this.refusal = reading.refusal;
      else this.refusal ??= reading.refusal;
      return reading.isFinal ? this.refuse() : this.evaluate();
    }
    this.mapOf = reading.mapOf;
    this.edited = []; // the ways back through what was rewritten, the last first
    this.rewritings = new Map([[REDECLARED, (text) => redeclare(text, kindOf)], [RETURNED, bindReturns]]);
    const bound = bindModules(reading.text);
    const carried = carryOn(bound.text);
    return this.post(carried.text, [carried.back, bound.back, reading.back]);
  }

  post(text, backs) {
    this.text = text;
    this.edited.unshift(...backs.filter(Boolean));
    errors.remember(this.name, { code: this.code, mapOf: this.mapOf, edited: this.edited });
    const expression = `${text}\n//# sourceURL=${this.name}`;
    const answered = (error, answer) => this.answered(error, answer);
    const request = { expression, replMode: true, awaitPromise: true, objectGroup: "cell" };
    this.isCompiling = true; // V8 refuses a text before it answers anything else, and at once
    session.post("Runtime.evaluate", request, answered);
    this.isCompiling = false;
  }

  answered(failure, answer) {
    if (this.finished || this.exiting || channel.isInterrupted()) return;
    const details = answer?.exceptionDetails;
    if (failure) return this.fail({ name: "Error", value: failure.message, traceback: failure.message });
    if (this.isCompiling && details?.exception?.className === "SyntaxError") return this.refused(details);
    const thing = fetch(details ? details.exception : answer.result);
    this.evaluated = true;
    const left = details && takeReturn(thing);
    if (details && !left) this.uncaught(thing);
    else this.succeed(left ? left.value : thing);
    return this.settle();
  }

  /** V8 does not take the text. Nothing has run: rewrite what it names, or try the next reading. */
  refused({ exception, lineNumber, columnNumber }) {
    const message = exception.description.split("\n")[0].replace(/^SyntaxError: /, "");
    for (const [pattern, rewrite] of this.rewritings) {
      if (!pattern.test(message)) continue;
      this.rewritings.delete(pattern);
      const rewritten = rewrite(this.text);
      if (rewritten) return this.post(rewritten.text, rewritten.backs ?? [rewritten.back]);
    }
    const found = (MODULE_ONLY.test(message) && refusalOf(this.text)) || { message, line: lineNumber, column: columnNumber };
    const [line, column] = errors.locate(this.name, found.line + 1, found.column + 1);
    this.refusal ??= { message: found.message, line: line - 1, column: column - 1 };
    return this.evaluate();
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
    const promise = this.promise;
    this.promise = undefined;
    this.uncaught(reason, promise);
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

  /** A result in the middle: nothing that comes after it may overtake it. */
  display(data) {
    channel.sendAwaited({ op: "result", id: this.id, main: false, data, extra: {} });
  }

  /** What the cell threw, or a promise of its was rejected with: for the handlers that the cell has put in place, if any. */
  uncaught(thrown, promise) {
    const event = UNCAUGHT.findLast((name) => (promise || name === "uncaughtException") && process.listenerCount(name) > this.listeners.get(name));
    if (event === undefined) return this.fail(errors.describe(thrown));
    try {
      process.emit(event, thrown, event === "uncaughtException" ? (promise ? "unhandledRejection" : event) : promise);
    } catch (error) {
      this.fail(errors.describe(error));
    }
    return undefined;
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
    const counts = pending.census();
    const { hold, interval, connection, background, earlier } = counts;
    if (hold > 0 || (this.promise && connection > 0)) {
      this.quiet = undefined;
      return false;
    }
    if (this.promise && !background && !interval && !earlier) return false; // it settles now, or drained() is next
    if (connection === 0 && (interval === 0 || background > 0)) return true;
    return this.hasWaited(counts);
  }

  /** Whether the cell has been left alone for as long as it may wait for intervals and connections. */
  hasWaited(counts) {
    const now = Date.now();
    this.quiet ??= { begun: now, since: now, moved: counts.moved };
    if (this.quiet.moved !== counts.moved) Object.assign(this.quiet, { since: now, moved: counts.moved });
    const limit = this.promise ? pending.LONG_MS : pending.patience(counts, this.code);
    return now - this.quiet.since >= limit || now - this.quiet.begun >= pending.LONG_MS;
  }

  /** Nothing keeps the event loop alive any more: whatever the cell still waits for can never come. */
  drained() {
    if (this.finished) return;
    if (channel.isInterrupted()) return void channel.keepAlive(true); // its end is on the way
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
    this.failWith(code);
    this.finish();
  }

  /** The exit code of a program is a cell's error. */
  failWith(code) {
    const value = `exit code ${code}`;
    if (code !== 0) this.fail({ name: "SystemExit", value, traceback: `SystemExit: ${value}` });
  }

  finish() {
    if (this.promise && !this.failed) this.result({ "text/plain": util.inspect(this.promise) }); // still pending
    if (!this.failed) this.failWith(Number(process.exitCode ?? 0));
    process.exitCode = undefined;
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

/** How a name is declared by earlier cells: "var" (or function), "let" (or class), "const", or undefined. */
function kindOf(name) {
  let lexical = [];
  session.post("Runtime.globalLexicalScopeNames", {}, (_, answer) => { lexical = answer.names; });
  if (!lexical.includes(name)) return Object.getOwnPropertyDescriptor(globalThis, name)?.configurable === false ? "var" : undefined;
  const failure = probe(`void (${name} = ${name})`); // leaves a let as it is
  if (failure !== "ReferenceError") return failure === undefined ? "let" : "const";
  return probe(`let ${name};`, true) === undefined ? "let" : "const"; // it was never given a value: nothing is lost
}

/** The class of the error that an expression gives, or undefined. */
function probe(expression, replMode = false) {
  let name;
  session.post("Runtime.evaluate", { expression, silent: true, replMode }, (_, answer) => {
    name = answer.exceptionDetails?.exception?.className;
  });
  return name;
}

let takerId;

/** Connect the inspector; once. */
function install() {
  session.connect();
  const key = Symbol.for("cloister.taker");
  globalThis[key] = (value) => { taken = value; };
  session.post("Runtime.evaluate", { expression: 'globalThis[Symbol.for("cloister.taker")]' }, (_, { result }) => { takerId = result.objectId; });
  delete globalThis[key];
  Object.defineProperty(globalThis, "display", { configurable: true, enumerable: false, value: display, writable: true });
  process.exit = exit;
  process.on("beforeExit", () => current?.drained());
  for (const name of UNCAUGHT) process.on(name, (thrown) => report(name, thrown));
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

/** Show values in the middle of a cell. A promise when the display of one is asynchronous. */
function display(...values) {
  const later = values.map(bundleOf).map((bundle) => (util.types.isPromise(bundle) ? bundle.then(showNow) : showNow(bundle)));
  return later.some((one) => one !== undefined) ? Promise.all(later).then(() => undefined) : undefined;
}

function showNow(bundle) {
  if (current) current.display(bundle);
  else channel.send({ op: "result", id: lastId, main: false, data: bundle, extra: {} });
}

const runId = () => lastId;
const isRunning = () => current !== undefined;

module.exports = { install, execute, interrupt, runId, isRunning };
