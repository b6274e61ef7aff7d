// Makes <package>.packed.js and <package>.cache beside this file for sucrase, acorn and typescript: each with everything that it loads as one
// script, and V8's code for it. Runs when the agent's tree is made (template/stock/agent/tree.sh). It must not change a package's behaviour.
// Modules stay as they are, except that non-ASCII characters are escaped: V8 keeps such a text in half the memory and reads it faster.
// Another version of V8 refuses the code and compiles the script.
"use strict";
const fs = require("node:fs");
const Module = require("node:module");
const path = require("node:path");
const vm = require("node:vm");

/** What transform.js asks for, with the syntax that cells have: the functions that run here are in the code that is kept. */
const SAMPLE = `import type { A } from "a"; import b, { type C } from "b";
interface Shape<T extends object = {}> { readonly name: string; area?(): number; [key: string]: unknown }
type Pair<A, B> = [A, B] | { [K in keyof A]: B };
enum Color { Red = 1, Green }
abstract class Circle<T> implements Shape<T> { private r = 1; constructor(public name: string, protected x?: number) {} static of<T>(x: T): T { return x!; } }
async function* f<T>(this: void, a: T, ...rest: number[]): AsyncGenerator<T> { for await (const x of [a]) yield x as T; }
const { a = 1, ...others }: { a?: number } = {}; const g = <T,>(x: T): x is T & {} => typeof x === "string" && \`\${x}\` !== "" ? true : false;
try { declare_(others satisfies object, /x+/g, 1n, b?.c ?? a) } catch (e: unknown) { throw new Error("x") } finally { label: while (a--) break label; }
declare const z: string; export const y: number = 2; export default class { get p(): number { return 1 } }
switch (y) { case 1: default: if (y) { console.log(y as any, <any>y) } else { delete (others as any).x } }`;

const SCRIPT = `import a, { b } from "c" with { type: "json" }; function f(x, ...y) { return x ? [...y] : { x, y } } var { d, e: [g = 1] } = f;
const h = async (x) => { for (let i = 0; i < 3; i++) await x?.y; }; class K extends f { #p = 1; static m() { try { throw /x/u } catch { } } }
export default \`\${a ?? b}\`; if (a) { while (b) break } else switch (d) { case 1: default: new K(1n) } await import("x"); import.meta.url;`;

const DECORATED = `function dec(...x: any[]): any {} @dec class A<T> { @dec m(): void {} @dec p = 1; accessor q = 2; constructor(private y: number) {} }
namespace N { export const a = 1; export namespace M { export function f() {} } } enum E { A, B = 2 } { using r = { [Symbol.dispose]() {} }; }
interface I { x: number } type U = I | { [K in keyof I]: string }; abstract class B { abstract n(): void } export { A }; import type { X } from "x";`;

/** Loads `root` and gives all files that it loads: name to what each of its requests means. */
function collect(root) {
  const files = new Map([[root, {}]]);
  const load = Module.prototype.require;
  Module.prototype.require = function watched(request) {
    if (!Module.isBuiltin(request)) {
      const target = Module.createRequire(this.filename).resolve(request);
      if (files.has(this.filename)) files.get(this.filename)[request] = target;
      if (!files.has(target)) files.set(target, {});
    }
    return load.call(this, request);
  };
  require(root);
  Module.prototype.require = load;
  return files;
}

/** One expression: a function that takes a real `require` names for the files and builtins.js, and gives the exports of `root`. */
function pack(root, files) {
  const names = [...files.keys()];
  const modules = names.map((name) => {
    const table = Object.entries(files.get(name)).map(([request, target]) => [request, names.indexOf(target)]);
    return `[${JSON.stringify(Object.fromEntries(table))}, function (exports, require, module) {\n${fs.readFileSync(name, "utf8")}\n}]`;
  });
  return `(function (real, __filename, __dirname, builtins) {
const { ${Object.keys(require("./builtins.js")).join(", ")} } = builtins;
const modules = [${modules.join(",\n")}];
const loaded = [];
function load(index) {
  if (loaded[index]) return loaded[index].exports;
  const [table, body] = modules[index];
  const module = loaded[index] = { exports: {} };
  body.call(module.exports, module.exports, (request) => (request in table ? load(table[request]) : real(request)), module);
  return module.exports;
}
return load(${names.indexOf(root)});
})`;
}

/** The package as one script; `use` runs what the driver will run, and its code is kept. */
function keep(name, use) {
  const root = require.resolve(name);
  const text = pack(root, collect(root)).replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const script = new vm.Script(text, { filename: path.join(__dirname, `${name}.packed.js`) });
  const packed = use(script.runInThisContext()(require, __filename, __dirname, require("./builtins.js")));
  if (packed !== use(require(name))) throw new Error(`the packed ${name} differs`);
  fs.writeFileSync(path.join(__dirname, `${name}.packed.js`), text, "latin1");
  fs.writeFileSync(path.join(__dirname, `${name}.cache`), script.createCachedData());
}

keep("sucrase", ({ transform }) => {
  const options = { transforms: ["typescript"], disableESTransforms: true, keepUnusedImports: true, filePath: "cell" };
  return [undefined, { compiledFilename: "cell" }].map((sourceMapOptions) => transform(SAMPLE, { ...options, sourceMapOptions }).code).join();
});
keep("acorn", ({ parse }) => {
  const tree = parse(SCRIPT, { ecmaVersion: "latest", allowAwaitOutsideFunction: true, allowImportExportEverywhere: true });
  return JSON.stringify(tree, (_, value) => (typeof value === "bigint" ? String(value) : value));
});
keep("typescript", (ts) => {
  const compilerOptions = { target: "es2022", module: "esnext", verbatimModuleSyntax: true, sourceMap: true, newLine: "lf" };
  const outputs = [true, false].map((experimentalDecorators) => ts.transpileModule(DECORATED, { compilerOptions: { ...compilerOptions, experimentalDecorators } }));
  const { parseDiagnostics } = ts.createSourceFile("cell.ts", `${SAMPLE}\nlet x: = ;`, ts.ScriptTarget.ESNext, false);
  return JSON.stringify([outputs, parseDiagnostics.map(({ messageText, start }) => [messageText, start])]);
});
