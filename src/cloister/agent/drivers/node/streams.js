// process.stdout, process.stderr and console of user code, as protocol messages: one write, one message. It must not buffer: a write has
// reached the socket when it returns. Text in bytes is decoded across writes, so that a split UTF-8 sequence survives. process.stdin is
// at its end. Each cell that uses it gets its own, so that each can see the end.
"use strict";
const { ArrayBuffer, Buffer, Object, process } = require("./builtins.js");
const { Console } = require("node:console");
const fs = require("node:fs");
const { StringDecoder } = require("node:string_decoder");
const { Writable } = require("node:stream");

class ProtocolStream extends Writable {
  #emit;
  #decoder = new StringDecoder("utf8");

  constructor(fd, emit) {
    super({ decodeStrings: false });
    this.fd = fd;
    this.#emit = emit;
  }

  write(chunk, encoding, callback) {
    if (typeof encoding === "function") return this.write(chunk, undefined, encoding);
    if (typeof chunk !== "string" && !ArrayBuffer.isView(chunk)) return super.write(chunk, encoding, callback); // says what is wrong with it
    this.#emit(this.#text(chunk, encoding));
    if (typeof callback === "function") process.nextTick(callback, null);
    return true;
  }

  _write(chunk, encoding, callback) {
    this.#emit(this.#text(chunk, encoding));
    callback();
  }

  end(chunk, encoding, callback) {
    if (chunk !== undefined && typeof chunk !== "function") this.write(chunk, encoding, callback);
    return this; // like Node's own, these streams outlive an end()
  }

  #text(chunk, encoding) {
    if (typeof chunk === "string") {
      return encoding && encoding !== "utf8" && encoding !== "utf-8" ? this.#decoder.write(Buffer.from(chunk, encoding)) : chunk;
    }
    return this.#decoder.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
  }
}

let input; // process.stdin of the running cell

/** A new cell begins. */
function begin() {
  input = undefined;
}

/** Put the streams in place; emit(op, text) writes one message. */
function install(emit) {
  for (const [fd, name] of [[1, "stdout"], [2, "stderr"]]) {
    const stream = new ProtocolStream(fd, (text) => text && emit(name, text));
    Object.defineProperty(process, name, { configurable: true, enumerable: true, value: stream, writable: false });
  }
  const get = () => (input ??= new fs.ReadStream(null, { fd: 0, autoClose: false }));
  Object.defineProperty(process, "stdin", { configurable: true, enumerable: true, get });
  const console = new Console({ stdout: process.stdout, stderr: process.stderr });
  console.Console = Console;
  // The global console mirrors every call, objects included, to the inspector; this one does not, so it neither retains nor doubles.
  Object.defineProperty(globalThis, "console", { configurable: true, enumerable: false, value: console, writable: true });
}

module.exports = { install, begin };
