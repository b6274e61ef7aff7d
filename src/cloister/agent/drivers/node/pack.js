// Makes sucrase.packed.js and sucrase.cache beside this file: sucrase with all that it loads as one script, and V8's code for it. Runs when the
// agent's tree is made (template/stock/agent/tree.sh). It must not change what sucrase does: the modules are taken as they are. Another V8
// refuses the code and compiles the script instead.
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

/** One expression: a function that takes a real `require` and gives the exports of `root`. */
function pack(root, files) {
  const names = [...files.keys()];
  const modules = names.map((name) => {
    const table = Object.entries(files.get(name)).map(([request, target]) => [request, names.indexOf(target)]);
    return `[${JSON.stringify(Object.fromEntries(table))}, function (exports, require, module) {\n${fs.readFileSync(name, "utf8")}\n}]`;
  });
  return `(function (real) {
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

const root = require.resolve("sucrase");
const text = pack(root, collect(root));
const script = new vm.Script(text, { filename: path.join(__dirname, "sucrase.packed.js") });
const { transform } = script.runInThisContext()(require);
for (const sourceMapOptions of [undefined, { compiledFilename: "cell" }]) {
  const options = { transforms: ["typescript"], disableESTransforms: true, keepUnusedImports: true, filePath: "cell", sourceMapOptions };
  if (transform(SAMPLE, options).code !== require("sucrase").transform(SAMPLE, options).code) throw new Error("the packed sucrase differs");
}
fs.writeFileSync(path.join(__dirname, "sucrase.packed.js"), text);
fs.writeFileSync(path.join(__dirname, "sucrase.cache"), script.createCachedData());
