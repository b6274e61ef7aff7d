// Loads the compilers: sucrase, acorn and typescript. pack.js makes a form that loads several times as fast; without it, the package is
// loaded. It owns the loaded ones.
"use strict";
const builtins = require("./builtins.js");
const loaded = new builtins.Map();

function load(name) {
  const fs = require("node:fs");
  const vm = require("node:vm");
  const filename = `${__dirname}/${name}.packed.js`;
  if (!fs.existsSync(filename)) return require(name);
  const cachedData = fs.readFileSync(`${__dirname}/${name}.cache`);
  return new vm.Script(fs.readFileSync(filename, "latin1"), { filename, cachedData }).runInThisContext()(require, filename, __dirname, builtins);
}

/** The exports of a package. */
function get(name) {
  if (!loaded.has(name)) loaded.set(name, load(name));
  return loaded.get(name);
}

module.exports = { get };
