// From the text of a cell to a script that V8's REPL mode takes: types erased, static imports and exports rewritten, dynamic imports and
// import.meta bound to the work directory. It owns no state but the loaded compilers; line numbers never change, and columns can be mapped back.
"use strict";
const IMPORTISH = /\b(?:import|export)\b/;
const BEYOND_SUCRASE = /^\s*@[A-Za-z_$]|\b(?:namespace|module)\s+[A-Za-z_$][\w$.]*\s*\{/m; // decorators, namespaces
const HELPER = "__cloister_module__";

let compiler;

/** Sucrase as pack.js has left it, which loads in a fifth of the time; from its package where no tree was made. */
function loadSucrase() {
  const fs = require("node:fs");
  const vm = require("node:vm");
  const filename = `${__dirname}/sucrase.packed.js`;
  if (!fs.existsSync(filename)) return require("sucrase");
  const cachedData = fs.readFileSync(`${__dirname}/sucrase.cache`);
  return new vm.Script(fs.readFileSync(filename, "utf8"), { filename, cachedData }).runInThisContext()(require);
}

function sucrase(code, name, withMap) {
  const options = { transforms: ["typescript"], disableESTransforms: true, keepUnusedImports: true, filePath: name };
  if (withMap) options.sourceMapOptions = { compiledFilename: name };
  const { code: text, sourceMap } = (compiler ??= loadSucrase()).transform(code, options);
  return { text, map: sourceMap };
}

/** Slow to load (0.2 s): only for what sucrase does not do. */
function typescript(code, name) {
  const ts = require("typescript");
  const { outputText, sourceMapText } = ts.transpileModule(code, {
    fileName: name.replace(/\.js$/, ".ts"),
    compilerOptions: { target: "es2022", module: "esnext", experimentalDecorators: true, verbatimModuleSyntax: true, sourceMap: true, newLine: "lf" },
  });
  return { text: outputText.replace(/\/\/# sourceMappingURL=.*\s*$/, ""), map: JSON.parse(sourceMapText) };
}

/**
 * The ways to read a cell, best first; each is {text, mapOf} and is made only when asked for. The next one is tried when V8 refuses a text as
 * a syntax error, that is before anything of it has run. JavaScript is taken as it is and as TypeScript only when it is not JavaScript.
 */
function* readings(code, language, name) {
  const asIs = /^\s*\{/.test(code) && !/;\s*$/.test(code) && isExpression(`(${code}\n)`) ? `(${code}\n)` : code;
  if (language !== "typescript") yield { text: asIs };
  if (!BEYOND_SUCRASE.test(code)) {
    const { output, refusal } = attempt(() => sucrase(asIs, name, false));
    if (refusal) return void (yield { refusal });
    yield { text: output.text, mapOf: () => sucrase(asIs, name, true).map };
  }
  const full = typescript(code, name);
  yield { text: full.text, mapOf: () => full.map };
}

/** The output, or why and where the code was refused. */
function attempt(compile) {
  try {
    return { output: compile() };
  } catch (error) {
    if (error.loc === undefined) throw error;
    const message = error.message.replace(/^Error transforming \S+: /, "").replace(/ \(\d+:\d+\)$/, "");
    return { refusal: { message, line: error.loc.line - 1, column: error.loc.column - 1 } };
  }
}

function isExpression(text) {
  const vm = require("node:vm");
  try {
    return Boolean(new vm.Script(text, { filename: "probe" }));
  } catch {
    return false;
  }
}

/** Rewrite what only modules may contain. The text comes back as it was when it does not parse: V8 reports the error then. */
function bindModules(text) {
  if (!IMPORTISH.test(text)) return text;
  const tree = parse(text);
  if (tree === undefined) return text;
  const edits = [];
  for (const node of tree.body) {
    if (node.type === "ImportDeclaration") edits.push([node.start, node.end, importStatement(node, text)]);
    else if (node.type.startsWith("Export")) edits.push(exportEdit(node, text));
  }
  visit(tree, (node) => {
    if (node.type === "ImportExpression") edits.push([node.start, node.start + "import".length, `${HELPER}.load`]);
    else if (node.type === "MetaProperty" && node.meta.name === "import") edits.push([node.start, node.end, `${HELPER}.meta`]);
  });
  return apply(text, edits);
}

function parse(text) {
  const acorn = require("acorn");
  try {
    return acorn.parse(text, { ecmaVersion: "latest", sourceType: "module", allowReturnOutsideFunction: true });
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function visit(node, see) {
  see(node);
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) if (typeof child?.type === "string") visit(child, see);
  }
}

function importStatement(node, text) {
  const attributes = node.attributes?.length
    ? `, {with: {${node.attributes.map((one) => text.slice(one.start, one.end)).join(", ")}}}`
    : "";
  const load = `await ${HELPER}.load(${node.source.raw}${attributes})`;
  const space = node.specifiers.find((one) => one.type === "ImportNamespaceSpecifier");
  const named = node.specifiers.filter((one) => one.type !== "ImportNamespaceSpecifier");
  const names = named.map((one) => (one.type === "ImportDefaultSpecifier" ? "default" : one.imported.name ?? one.imported.value));
  const pattern = named.map((one, index) => `${JSON.stringify(names[index])}: ${one.local.name}`).join(", ");
  let code = node.specifiers.length ? "" : `${load}; undefined`;
  if (named.length) code = `const {${pattern}} = ${HELPER}.pick(${load}, ${JSON.stringify(names)}, ${node.source.raw})`;
  if (space) code = `const ${space.local.name} = ${load}${code ? `; ${code}` : ""}`;
  return code + ";" + newlines(text, node.start, node.end);
}

function exportEdit(node, text) {
  const inner = node.declaration;
  if (!inner) return [node.start, node.end, newlines(text, node.start, node.end)];
  if (node.type === "ExportDefaultDeclaration" && !inner.id) {
    const open = /^(?:Function|Class)/.test(inner.type);
    return [node.start, inner.start, newlines(text, node.start, inner.start) + (open ? "void " : "")];
  }
  return [node.start, inner.start, newlines(text, node.start, inner.start)];
}

const newlines = (text, start, end) => text.slice(start, end).replace(/[^\n]/g, "");

function apply(text, edits) {
  edits.sort((one, other) => one[0] - other[0]);
  let result = "";
  let at = 0;
  for (const [start, end, replacement] of edits) {
    if (start < at) continue; // inside something already rewritten
    result += text.slice(at, start) + replacement;
    at = end;
  }
  return result + text.slice(at);
}

module.exports = { HELPER, readings, bindModules };
