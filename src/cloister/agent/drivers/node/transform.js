// Turns the text of a cell into JavaScript by erasing types. It owns no state. Line numbers never change with sucrase, and positions can be
// mapped back.
"use strict";
const { Boolean, Error, JSON, RegExp, Set, Symbol } = require("./builtins.js");
const packages = require("./packages.js");
const { declareFirst } = require("./parameters.js");

// What sucrase leaves: decorators, namespaces, texts put together in enums, `accessor`, `using`. A decorator is looked for outside comment lines.
const BEYOND_SUCRASE = new RegExp(
  [
    /^(?!\s*(?:\*|\/[/*])).*?(?<![\w$"'`.*/-])@[A-Za-z_$(]/,
    /\b(?:namespace|module)\s+[A-Za-z_$][\w$.]*\s*\{/,
    /\benum\s+[A-Za-z_$][\w$]*\s*\{[^}]*(?:`|["']\s*\+)/,
    /\baccessor\s+[\w$#["']|\busing\s+[A-Za-z_$]/,
  ].map(({ source }) => source).join("|"),
  "m",
);
// Decorators of the language rather than of `experimentalDecorators`: what only they have.
const NEW_DECORATORS = new RegExp(
  [
    /\b(?:\w*DecoratorContext|addInitializer|Symbol\.metadata)\b/,
    /\bcontext\s*(?:\.|\[)\s*(?:kind|name|static|private|access|metadata)\b/,
    /@[\w$.]+(?:\([^()]*\))?\s+(?:\w+\s+)*accessor\s/,
  ].map(({ source }) => source).join("|"),
);
// The variable of an enum or namespace is taken over by what extends it. In a new cell it is a new one.
const MERGED = /^((?:export )?var ([A-Za-z_$][\w$]*));(?=\s*\(function \(\2\) \{)/gm;

function sucrase(code, name, withMap) {
  const options = { transforms: ["typescript"], disableESTransforms: true, keepUnusedImports: true, filePath: name };
  if (withMap) options.sourceMapOptions = { compiledFilename: name };
  const { code: text, sourceMap } = packages.get("sucrase").transform(code, options);
  return { text: renewed(text), map: sourceMap };
}

/** Slower than sucrase: only for what that does not do. */
function typescript(code, name) {
  const { outputText, sourceMapText } = packages.get("typescript").transpileModule(code, {
    fileName: name.replace(/\.js$/, ".ts"),
    compilerOptions: {
      target: "es2022",
      module: "esnext",
      experimentalDecorators: !NEW_DECORATORS.test(code),
      verbatimModuleSyntax: true,
      sourceMap: true,
      newLine: "lf",
    },
  });
  return { text: renewed(outputText.replace(/\/\/# sourceMappingURL=.*\s*$/, "")), map: JSON.parse(sourceMapText) };
}

function renewed(text) {
  const seen = new Set();
  return text.replace(MERGED, (whole, declaration, name) => {
    if (seen.has(name)) return whole;
    seen.add(name);
    return `${declaration} = undefined;`;
  });
}

/**
 * The ways to read a cell, best first; each is {text, back, mapOf} or {refusal}, and is made only when asked for. The next one is tried when V8 refuses
 * a text as a syntax error, that is before anything of it has run. JavaScript is taken as it is, and as TypeScript only when it is not JavaScript.
 */
function* readings(code, language, name) {
  const asIs = /^\s*\{/.test(code) && !/;\s*$/.test(code) && isExpression(`(${code}\n)`) ? `(${code}\n)` : code;
  const isTypeScript = language === "typescript";
  if (!isTypeScript) yield { text: asIs };
  const beyond = BEYOND_SUCRASE.test(code);
  if (!beyond) {
    const { output, refusal } = attempt(() => sucrase(asIs, name, false));
    if (!isTypeScript && (refusal || output.text === asIs)) return; // it is JavaScript, and V8 has said what is wrong with it
    yield output ? { ...declareFirst(code, output.text), mapOf: () => sucrase(asIs, name, true).map } : { refusal };
  }
  if (!isTypeScript && !beyond) return;
  const refusal = refusalOf(code, name);
  if (refusal) yield { refusal, isFinal: isTypeScript };
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

/** What tsc says about the syntax of code, as the refusal; undefined: nothing. */
function refusalOf(code, name) {
  const ts = packages.get("typescript");
  const source = ts.createSourceFile(name.replace(/\.js$/, ".ts"), code, ts.ScriptTarget.ESNext, false);
  const first = source.parseDiagnostics[0];
  if (first === undefined) return undefined;
  const { line, character } = source.getLineAndCharacterOfPosition(first.start);
  return { message: ts.flattenDiagnosticMessageText(first.messageText, "\n"), line, column: character };
}

function isExpression(text) {
  const vm = require("node:vm");
  try {
    return Boolean(new vm.Script(text, { filename: "probe" }));
  } catch {
    return false;
  }
}

module.exports = { readings };
