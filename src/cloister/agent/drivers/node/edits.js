// Edits of a text that keep its lines: each is [start, end, replacement], with as many line ends in both texts. It gives the new text, and
// a function from a position in it to the position in the old text.
"use strict";
const { Map } = require("./builtins.js");

/** {text, back}: `back(line, column)` gives the old column (both from 1). Edits inside another edit are left out. */
function apply(text, edits) {
  edits.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
  const shifts = new Map(); // line -> [[new column, old column]], each right from there on
  let line = 1;
  let lineStart = 0; // where the line begins in the old text
  let result = "";
  let resultStart = 0; // and in the new one
  let at = 0;
  const advance = (end) => {
    for (let next = text.indexOf("\n", at); next !== -1 && next < end; next = text.indexOf("\n", next + 1)) {
      line += 1;
      resultStart = result.length + next + 1 - at;
      lineStart = next + 1;
    }
    result += text.slice(at, end);
    at = end;
  };
  const note = (column) => {
    if (!shifts.has(line)) shifts.set(line, []);
    shifts.get(line).push([result.length - resultStart + 1, column]);
  };
  for (const [start, end, replacement] of edits) {
    if (start < at) continue;
    advance(start);
    note(start - lineStart + 1);
    const lines = text.slice(start, end).split("\n");
    result += replacement;
    if (lines.length > 1) {
      line += lines.length - 1;
      lineStart = end - lines.at(-1).length;
      resultStart = result.lastIndexOf("\n") + 1;
    }
    at = end;
    note(end - lineStart + 1);
  }
  advance(text.length);
  return { text: result, back: (row, column) => backOf(shifts.get(row), column) };
}

function backOf(shifts, column) {
  const found = shifts?.findLast(([from]) => from <= column);
  return found === undefined ? column : found[1] + column - found[0];
}

module.exports = { apply };
