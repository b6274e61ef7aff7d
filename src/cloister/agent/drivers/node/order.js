// Keeps the order between the socket (console, process.stdout, results) and descriptors 1 and 2 (children, fs.writeSync(1)). Before code
// writes to a descriptor, the agent has taken all messages: the driver patches Node's bindings for that. The agent keeps the opposite
// order (../README.md).
"use strict";
const { Reflect, process } = require("./builtins.js");
const STANDARD = /^(?:\/dev\/(?:std(?:out|err)|fd\/[12])|\/proc\/self\/fd\/[12])$/;

function binding(name) {
  const { noDeprecation } = process;
  process.noDeprecation = true;
  try {
    return process.binding(name);
  } finally {
    process.noDeprecation = noDeprecation;
  }
}

/** Have `before` called ahead of target[name] whenever `concerns` says so of its arguments. */
function patch(target, name, before, concerns = () => true) {
  const original = target[name];
  target[name] = function patched(...args) {
    if (concerns(args)) before();
    return Reflect.apply(original, this, args);
  };
}

/** Call settle() before a child starts or a descriptor is written to. */
function install(settle) {
  patch(binding("spawn_sync"), "spawn", settle);
  patch(binding("process_wrap").Process.prototype, "spawn", settle);
  const files = binding("fs");
  const toStandard = ([fd]) => fd === 1 || fd === 2;
  for (const name of ["writeBuffer", "writeBuffers", "writeString"]) patch(files, name, settle, toStandard);
  patch(files, "open", settle, ([path]) => typeof path === "string" && STANDARD.test(path));
}

module.exports = { binding, install };
