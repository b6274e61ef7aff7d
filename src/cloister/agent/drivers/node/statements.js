// Rewrites statements that only modules may contain, for V8's REPL mode: static imports and exports. Binds dynamic imports and import.meta
// to the work directory. Also rewrites a `return` at the top level, which only CommonJS files may contain. Lines never change.
"use strict";
const { JSON, Set } = require("./builtins.js");
const { apply } = require("./edits.js");
const { parse, startOf, visit, visitOwn } = require("./syntax.js");

const HELPER = "__cloister_module__";
const IMPORTISH = /\b(?:import|export)\b/;
const IMPORT_STATEMENT = /^\s*import\b(?!\s*[(.])[^;"']*(["'])[^"'\n]*\1(?:\s*(?:with|assert)\s*\{[^}]*\})?/gm;
const ASSERTION = /(\b(?:from|import)\s*(["'])[^"'\n]*\2\s*)assert(?=\s*\{)/g; // the attributes' old keyword

/** Rewrite imports and exports. Nothing is changed when the text does not parse: V8 reports the error then. Gives {text, back}. */
function bindModules(text) {
  if (!IMPORTISH.test(text)) return { text };
  const current = text.replace(ASSERTION, "$1with  ");
  const { tree } = parse(current);
  if (tree === undefined) return { text };
  const edits = [];
  const hoisted = [];
  let seenCode = false;
  for (const node of tree.body) {
    if (node.type === "ImportDeclaration") {
      const code = importStatement(node, current);
      if (seenCode) hoisted.push(code);
      edits.push([node.start, node.end, (seenCode ? ";" : code) + newlines(current, node.start, node.end)]);
    } else {
      seenCode ||= node.directive === undefined;
      if (node.type.startsWith("Export")) edits.push(...exportEdits(node, current));
    }
  }
  if (hoisted.length) edits.push([startOf(tree), startOf(tree), `;${hoisted.join(" ")} `]);
  visit(tree, (node) => {
    if (node.type === "ImportExpression") edits.push([node.start, node.start + "import".length, `${HELPER}.load`]);
    else if (node.type === "MetaProperty" && node.meta.name === "import") edits.push([node.start, node.end, `${HELPER}.meta`]);
  });
  return apply(current, edits);
}

const attributesOf = (node, text) =>
  node.attributes?.length ? `, {with: {${node.attributes.map((one) => text.slice(one.start, one.end)).join(", ")}}}` : "";

function importStatement(node, text) {
  const load = `await ${HELPER}.load(${node.source.raw}${attributesOf(node, text)})`;
  const space = node.specifiers.find((one) => one.type === "ImportNamespaceSpecifier");
  const named = node.specifiers.filter((one) => one.type !== "ImportNamespaceSpecifier");
  const names = named.map((one) => (one.type === "ImportDefaultSpecifier" ? "default" : (one.imported.name ?? one.imported.value)));
  const pattern = named.map((one, index) => `${JSON.stringify(names[index])}: ${one.local.name}`).join(", ");
  let code = node.specifiers.length ? "" : `${load}; undefined`;
  if (named.length) code = `const {${pattern}} = ${HELPER}.pick(${load}, ${JSON.stringify(names)}, ${node.source.raw})`;
  if (space) code = `const ${space.local.name} = ${load}${code ? `; ${code}` : ""}`;
  return `${code};`;
}

/** An export is its declaration; one from another module loads that. */
function exportEdits(node, text) {
  const inner = node.declaration;
  if (!inner) {
    const code = node.source ? `await ${HELPER}.load(${node.source.raw}${attributesOf(node, text)}); undefined;` : ";";
    return [[node.start, node.end, code + newlines(text, node.start, node.end)]];
  }
  const before = newlines(text, node.start, inner.start);
  if (node.type === "ExportDefaultDeclaration" && !inner.id) {
    const isDeclaration = /^(?:Function|Class)/.test(inner.type);
    return [[node.start, inner.start, `${before}${isDeclaration ? "" : ";"}void (`], [inner.end, inner.end, isDeclaration ? ");" : ")"]];
  }
  return [[node.start, inner.start, before]];
}

const newlines = (text, start, end) => text.slice(start, end).replace(/[^\n]/g, "");

/** Rewrite each `return` of the top level to the end of the cell: an exception that no catch of the cell sees. Undefined when there is none. */
function bindReturns(text) {
  const { tree } = parse(text);
  if (tree === undefined) return undefined;
  const edits = [];
  const guarded = new Set();
  visitOwn(tree, (node, parents) => {
    if (node.type !== "ReturnStatement") return;
    const leave = `throw ${HELPER}.leave(`;
    const { start, argument } = node;
    edits.push([start, start + "return".length, argument ? `${leave}(` : `${leave})`]);
    if (argument) edits.push([argument.end, argument.end, "))"]);
    for (const parent of parents) if (parent.type === "TryStatement" && parent.handler) guarded.add(parent.handler.body);
  });
  for (const body of guarded) edits.push([body.start + 1, body.start + 1, `${HELPER}.goOn();`]);
  return edits.length ? apply(text, edits) : undefined;
}

/**
 * What is wrong with a text that has imports or exports and does not parse: {message, line, column} from 0, or undefined. V8 itself has only
 * said that they may not be there.
 */
function refusalOf(text) {
  const vm = require("node:vm");
  const before = "(async () => {";
  const blank = (statement) => statement.replace(/[^\n]/g, " ");
  const rest = text.replace(IMPORT_STATEMENT, blank).replace(/^\s*export\s+(?:default\b)?/gm, blank).replaceAll("import.meta", "(undefined)");
  try {
    return void new vm.Script(`${before}${rest}\n})`, { filename: "cell" });
  } catch (error) {
    const [, line, mark] = /^cell:(\d+)\n.*\n(\s*)\^/.exec(error.stack) ?? [];
    if (line === undefined) throw error;
    return { message: error.message, line: line - 1, column: mark.length - (line === "1" ? before.length : 0) };
  }
}

module.exports = { HELPER, bindModules, bindReturns, refusalOf };
