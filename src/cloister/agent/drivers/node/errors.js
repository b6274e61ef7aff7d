// Errors as the user should see them: name, message, and a stack of the user's own frames with the user's own lines and columns. It owns the
// table of cell sources; it must never throw, whatever was thrown at it.
"use strict";
const util = require("node:util");

const FRAME = /^\s+at .*$/;
const HIDDEN = /[( ]node:[\w/]+:\d+/;
const MATCHING = /^\s+\.\.\. \d+ lines matching cause stack trace \.\.\.$/;
const POSITION = /(cell-\d+\.[jt]s):(\d+):(\d+)/g;
const cells = new Map(); // script name -> {code, mapOf, map}

/** Remember how the text of a script came from the user's code. */
function remember(name, code, mapOf) {
  cells.set(name, { code, mapOf, map: undefined });
}

function mapped(name, line, column) {
  const cell = cells.get(name);
  if (!cell?.mapOf) return `${name}:${line}:${column}`;
  const { TraceMap, originalPositionFor } = require("@jridgewell/trace-mapping");
  cell.map ??= new TraceMap(cell.mapOf());
  const found = originalPositionFor(cell.map, { line: Number(line), column: Number(column) - 1 });
  return found.line === null ? `${name}:${line}:${column}` : `${name}:${found.line}:${found.column + 1}`;
}

const isHidden = (line) => MATCHING.test(line) || (FRAME.test(line) && (HIDDEN.test(line) || line.includes(__dirname)));

/** The stack without the frames of Node and of the driver, positions mapped. */
function clean(stack) {
  const kept = [];
  for (const line of stack.split("\n")) {
    if (!isHidden(line)) kept.push(FRAME.test(line) ? line.replace(POSITION, (_, name, row, column) => mapped(name, row, column)) : line);
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
function describeSyntax({ message, line, column }, name, code) {
  const source = code.split("\n")[line] ?? "";
  const mark = " ".repeat(Math.max(0, column)) + "^";
  const traceback = `${name}:${line + 1}\n${source}\n${mark}\n\nSyntaxError: ${message}\n    at ${name}:${line + 1}:${column + 1}`;
  return { name: "SyntaxError", value: message, traceback };
}

module.exports = { remember, describe, describeSyntax };
