// How a cell finds modules: `require`, `import`, `import.meta`, `module` and `__dirname`, all as of a file in the work directory. It owns those
// globals. Packages installed while the kernel runs are found at once; global packages are found too, also by `import`.
"use strict";
const { Module, createRequire } = require("node:module");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const vm = require("node:vm");
const { HELPER } = require("./transform.js");

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

async function load(specifier, options) {
  const directory = process.cwd();
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
  Object.defineProperty(globalThis, HELPER, { ...hidden, value: { load, pick, meta } });
}

module.exports = { install };
