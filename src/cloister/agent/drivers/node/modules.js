// Modules for cells: `require`, `import`, `import.meta`, `module` and `__dirname` work as in a file of the work directory. It owns these
// globals. Packages that are installed while the kernel runs are found at once. Global packages are found, too, also by `import`.
"use strict";
const { Boolean, Error, Map, Object, SyntaxError, process } = require("./builtins.js");
const { Module, createRequire } = require("node:module");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const vm = require("node:vm");
const { HELPER } = require("./statements.js");

const GLOBAL_FOLDERS = ["/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/share/nodejs"];
const loaders = new Map(); // directory -> its import function

/** Node's own import(), resolving as a file of that directory would. */
function loaderOf(directory) {
  let loader = loaders.get(directory);
  if (loader === undefined) {
    loader = quietly(() => new vm.Script("(specifier, options) => import(specifier, options)", {
      filename: path.join(directory, "cell.mjs"),
      importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    }).runInThisContext());
    loaders.set(directory, loader);
  }
  return loader;
}

/** Without the warning that the constant above is experimental in Node 20. */
function quietly(make) {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    const loader = make();
    loader("node:module").catch(() => {}); // the warning comes with the first use
    return loader;
  } finally {
    process.emitWarning = emitWarning;
  }
}

async function load(specifier, given) {
  const directory = process.cwd();
  const options = given?.assert && !given.with ? { with: given.assert } : given; // the attributes' old name
  try {
    return await loaderOf(directory)(specifier, options);
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND" || /^[./]|^[a-z]+:/.test(specifier)) throw error;
    let found;
    try {
      found = createRequire(path.join(directory, "cell.js")).resolve(specifier);
    } catch {
      throw Object.assign(new Error(`Cannot find package '${specifier}' imported from ${directory}`), { code: error.code });
    }
    return loaderOf(directory)(pathToFileURL(found).href, options);
  }
}

/** The named exports; a CommonJS module's that Node's scan missed are taken from its exports object. */
function pick(space, names, specifier) {
  const picked = {};
  for (const name of names) {
    if (name in space) picked[name] = space[name];
    else if (space.default !== null && space.default !== undefined && name in Object(space.default)) picked[name] = space.default[name];
    else throw new SyntaxError(`The requested module '${specifier}' does not provide an export named '${name}'`);
  }
  return picked;
}

/** A function or class under the name that it would have, had redeclare.js not renamed it; with a static `name` it is left alone. */
function named(fn, name) {
  const own = Object.getOwnPropertyDescriptor(fn, "name")?.value;
  if (own === undefined || own === "" || own === `${name}\u200c`) Object.defineProperty(fn, "name", { value: name, configurable: true });
  return fn;
}

/** What a `return` at the top level throws (statements.js). */
class Return {
  constructor(value) {
    this.value = value;
  }
}
let returning;

function leave(value) {
  returning = new Return(value);
  return returning;
}

/** The cell's catch clauses begin with this. */
function goOn() {
  if (returning) throw returning;
}

/** The Return that a cell threw, or undefined when it threw something else. */
function takeReturn(thrown) {
  const taken = thrown instanceof Return ? thrown : undefined;
  returning = undefined;
  return taken;
}

/** Put the globals in place, once. */
function install() {
  process.env.NODE_PATH = [process.env.NODE_PATH, ...GLOBAL_FOLDERS].filter(Boolean).join(":");
  const given = process.env.NODE_PATH;
  Module._initPaths(); // reads NODE_PATH
  if (given === GLOBAL_FOLDERS.join(":")) delete process.env.NODE_PATH;
  const file = () => path.join(process.cwd(), "cell.js");
  let current = { directory: undefined, require: undefined };
  const require = (specifier) => here()(specifier);
  const here = () => {
    if (current.directory !== process.cwd()) current = { directory: process.cwd(), require: createRequire(file()) };
    return current.require;
  };
  const main = new Module("cell");
  main.filename = file();
  main.paths = Module._nodeModulePaths(process.cwd());
  Object.assign(require, { resolve: (...args) => here().resolve(...args), cache: Module._cache, extensions: Module._extensions, main });
  require.resolve.paths = (...args) => here().resolve.paths(...args);
  const meta = {
    get url() { return pathToFileURL(file()).href; },
    get filename() { return file(); },
    get dirname() { return process.cwd(); },
    resolve: (specifier) => (Module.isBuiltin(specifier) ? specifier : pathToFileURL(here().resolve(specifier)).href),
  };
  const hidden = { configurable: true, enumerable: false, writable: true };
  for (const [name, value] of Object.entries({ require, module: main, exports: main.exports })) {
    Object.defineProperty(globalThis, name, { ...hidden, value });
  }
  Object.defineProperty(globalThis, "__filename", { configurable: true, enumerable: false, get: file });
  Object.defineProperty(globalThis, "__dirname", { configurable: true, enumerable: false, get: () => process.cwd() });
  Object.defineProperty(globalThis, HELPER, { ...hidden, value: { load, pick, meta, named, leave, goOn } });
}

module.exports = { install, takeReturn };
