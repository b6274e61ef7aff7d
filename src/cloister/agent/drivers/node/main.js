// The Node driver: keeps the state of a JavaScript or TypeScript context and speaks the protocol of ../README.md on descriptor 3.
//
//   main.js       wires the parts           cell.js       one run, from request to "done"      transform.js  TypeScript, import, export
//   channel.js    writes the protocol       pending.js    what a run still waits for           modules.js    require and import
//   reader.js     thread: reads, interrupts streams.js    stdout, stderr, console              results.js, errors.js  what the user sees
"use strict";
const channel = require("./channel.js");
// First, because the reader takes as long to start as the rest takes to load. It has nothing to hand over before "ready".
channel.open((message) => cell.execute(message), (id) => cell.interrupt(id));
const cell = require("./cell.js");
const modules = require("./modules.js");
const pending = require("./pending.js");
const streams = require("./streams.js");

delete process.env.CLOISTER_KERNEL_FD;
streams.install((op, text) => channel.sendText(op, cell.runId(), text));
modules.install();
cell.install();
pending.install();
process.on("SIGINT", () => {}); // interrupts come as messages; a stray Ctrl-C for the children is not ours
channel.send({ op: "ready" });
