// Errors for the user: name, message, and a stack that ends where the cell begins, with the user's own lines and columns. User code that
// reads the stack gets the same. It owns the table of cell sources and Error.prepareStackTrace, and must never throw, for any thrown value.
"use strict";
const { Buffer, Error, Map, Math, Number, Object, String, Symbol } = require("./builtins.js");
const util = require("node:util");

const FRAME = /^\s+at .*$/;
const POSITION = /(cell-\d+\.[jt]s):(\d+):(\d+)/g;
const INSPECTOR = "node:inspector";
const cells = new Map(); // script name -> {code, mapOf, edited, map}
let nodeError; // the symbol by which Node knows errors of its own

/** Remember how the text of a script came from the user's code: by a source map, or not, and then by edits. */
function remember(name, source) {
  cells.set(name, { ...source, map: undefined });
}

/** [line, column] of the user's code for a position in a script, all from 1. */
function locate(name, line, column) {
  const cell = cells.get(name);
  if (!cell) return [line, column];
  const place = cell.edited.reduce((at, back) => back(line, at), column);
  if (!cell.mapOf) return [line, place];
  const { TraceMap, originalPositionFor } = require("@jridgewell/trace-mapping");
  cell.map ??= new TraceMap(cell.mapOf());
  const found = originalPositionFor(cell.map, { line, column: place - 1 });
  return found.line === null ? [line, place] : [found.line, found.column + 1];
}

function mapped(name, line, column) {
  return [name, ...locate(name, Number(line), Number(column))].join(":");
}

/** The calls down to the cell, without those of the driver: of what runs the cell, and of what it patched. */
function own(trace) {
  const last = trace.findLastIndex((site, index) => site.getFileName() === INSPECTOR && isDriver(trace[index + 1]));
  const calls = last === -1 ? trace : trace.slice(0, last);
  return calls.filter((site) => !isDriver(site));
}

const isDriver = (site) => String(site?.getFileName()).startsWith(__dirname);

/** Like Node's own, which gives way to it. A library that puts its own in place gets the driver's calls too. */
function prepareStackTrace(error, trace) {
  const head = nodeError in error ? `${error.name} [${error.code}]: ${error.message}` : textOf(error);
  const frames = own(trace).map((site) => `\n    at ${String(site).replace(POSITION, (_, name, line, column) => mapped(name, line, column))}`);
  return head + frames.join("");
}

function textOf(error) {
  try {
    return Error.prototype.toString.call(error);
  } catch {
    return "<error>";
  }
}

/** Take care of all stacks from now on. */
function install() {
  try {
    Buffer.alloc("");
  } catch (error) {
    nodeError = symbolOf(error);
  }
  Object.defineProperty(Error, "prepareStackTrace", { configurable: true, enumerable: false, value: prepareStackTrace, writable: true });
}

function symbolOf(error) {
  for (let from = error; from; from = Object.getPrototypeOf(from)) {
    const symbol = Object.getOwnPropertySymbols(from).find((one) => one.description === "kIsNodeError");
    if (symbol) return symbol;
  }
  return Symbol("kIsNodeError");
}

/** The lines without the driver's frames, when the stack was made by something else than prepareStackTrace. */
function clean(stack) {
  const kept = [];
  for (const line of stack.split("\n")) {
    if (!FRAME.test(line) || !line.includes(__dirname)) kept.push(line);
    else if (line.endsWith(" {")) kept.push(`${kept.pop()} {`); // the error's own properties follow its last frame
  }
  return kept.join("\n");
}

/** {name, value, traceback} of anything thrown. */
function describe(thrown) {
  try {
    if (!util.types.isNativeError(thrown) && !(thrown instanceof Error)) {
      const text = util.inspect(thrown, { colors: false });
      return { name: "Error", value: typeof thrown === "string" ? thrown : text, traceback: `Uncaught ${text}` };
    }
    const name = String(thrown.name || thrown.constructor?.name || "Error");
    return { name, value: String(thrown.message), traceback: clean(util.inspect(thrown, { colors: false })) };
  } catch (error) {
    return { name: "Error", value: "an error that cannot be shown", traceback: String(error?.message) };
  }
}

/** {name, value, traceback} of code that does not compile: the line and a mark under the column. `line` and `column` count from 0. */
function describeSyntax({ message, line: found, column }, name, code) {
  const lines = code.split("\n");
  const line = Math.min(found, lines.length - 1); // the end of the text may be behind it
  const source = lines[line];
  const mark = source.slice(0, Math.max(0, column)).replace(/[^\t]/g, " ") + "^";
  const traceback = `${name}:${line + 1}\n${source}\n${mark}\n\nSyntaxError: ${message}\n    at ${name}:${line + 1}:${column + 1}`;
  return { name: "SyntaxError", value: message, traceback };
}

module.exports = { install, remember, locate, describe, describeSyntax };
