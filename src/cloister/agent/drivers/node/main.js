// The Node driver: keeps the state of a JavaScript or TypeScript context and speaks the protocol of ../README.md on descriptor 3.
//
//   main.js     wires the parts               cell.js      one run, from request to "done"   transform.js, parameters.js  TypeScript
//   channel.js  writes the protocol           pending.js   what a run still waits for        statements.js  import, export, return
//   reader.js   thread: reads, interrupts     streams.js   stdin, stdout, stderr, console    redeclare.js   names declared again
//   order.js    messages and descriptors      modules.js   require and import                syntax.js, edits.js, packages.js  tools of these
//   randomness.js  new random numbers in a copy of the sandbox
//   results.js, errors.js   what the user sees   builtins.js   globals that no cell can change
"use strict";
const { process } = require("./builtins.js");
const channel = require("./channel.js");
// First, because the reader takes as long to start as the rest takes to load. It has no message before "ready".
channel.open((message) => (message.op === "renew" ? randomness.renew() : cell.execute(message)), (id) => cell.interrupt(id));
const cell = require("./cell.js");
const errors = require("./errors.js");
const modules = require("./modules.js");
const order = require("./order.js");
const pending = require("./pending.js");
const randomness = require("./randomness.js");
const streams = require("./streams.js");

delete process.env.CLOISTER_KERNEL_FD;
streams.install((op, text) => channel.sendText(op, cell.runId(), text));
order.install(() => cell.isRunning() && channel.settle());
errors.install();
modules.install();
cell.install();
pending.install();
process.on("SIGINT", () => {}); // interrupts come as messages; a SIGINT to the session is for the children
channel.send({ op: "ready" });
