// New random numbers in a copy of the sandbox (the message "renew"): two copies have the same memory, and so the same generators.
//
// Math.random belongs to a V8 context and cannot be seeded. A new context's function, seeded by a flag from the kernel's random numbers,
// takes its place. The functions of node:crypto read OpenSSL's generator, which cannot be seeded from JavaScript either: they read the
// kernel's from then on. Keys that OpenSSL makes by itself (TLS, generateKeyPair) still come from its own generator.
"use strict";
const { Math, Buffer } = globalThis;
const fs = require("node:fs");
const crypto = require("node:crypto");
const v8 = require("node:v8");
const vm = require("node:vm");

const LIMIT = 2 ** 48 - 1; // the largest range of randomInt
const CHUNK = 65536; // and the most bytes of getRandomValues
let ours = Math.random; // a function that the user put there stays
let isFromKernel = false; // whether the functions of node:crypto are ours

/** Fill a view or buffer with the kernel's random numbers. */
function fill(view) {
  const bytes = ArrayBuffer.isView(view) ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(view);
  const fd = fs.openSync("/dev/urandom", "r");
  try {
    for (let at = 0; at < bytes.length; ) at += fs.readSync(fd, bytes, at, bytes.length - at, null);
  } finally {
    fs.closeSync(fd);
  }
  return view;
}

function renewMath() {
  if (Math.random !== ours) return;
  v8.setFlagsFromString(`--random-seed=${fill(Buffer.alloc(4)).readUInt32LE() >>> 2 || 1}`);
  ours = vm.runInNewContext("Math.random");
  ours(); // takes the seed
  v8.setFlagsFromString("--random-seed=0");
  Math.random = ours;
}

/** Run what computes a value, and give it to the callback, if there is one, as node:crypto does. */
function answer(callback, compute) {
  if (callback === undefined) return compute();
  let value;
  try {
    value = compute();
  } catch (error) {
    process.nextTick(callback, error);
    return undefined;
  }
  process.nextTick(callback, null, value);
  return undefined;
}

function readCryptoFromKernel() {
  if (isFromKernel) return;
  isFromKernel = true;
  const { randomBytes, randomFillSync, randomFill, randomInt, randomUUID } = crypto; // they check the arguments, and throw as always
  crypto.randomFillSync = function (buffer, offset, size) {
    randomFillSync(buffer, offset, size);
    const { BYTES_PER_ELEMENT: width = 1 } = ArrayBuffer.isView(buffer) ? buffer : {};
    const bytes = ArrayBuffer.isView(buffer) ? new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength) : new Uint8Array(buffer);
    const from = (offset ?? 0) * width;
    fill(bytes.subarray(from, size === undefined ? bytes.length : from + size * width));
    return buffer;
  };
  crypto.randomFill = function (buffer, offset, size, callback) {
    const last = [callback, size, offset].find((one) => typeof one === "function");
    if (last === undefined) return randomFill(buffer, offset, size, callback);
    const [at, count] = [offset, size].map((one) => (typeof one === "function" ? undefined : one));
    return answer(last, () => crypto.randomFillSync(buffer, at, count));
  };
  crypto.randomBytes = function (size, callback) {
    if (callback !== undefined && typeof callback !== "function") return randomBytes(size, callback);
    const made = randomBytes(size);
    return answer(callback, () => fill(made));
  };
  crypto.randomInt = function (min, max, callback) {
    if (max === undefined || typeof max === "function") [min, max, callback] = [0, min, max];
    randomInt(min, max); // checks them
    return answer(callback, () => {
      const range = max - min;
      const even = LIMIT + 1 - ((LIMIT + 1) % range);
      for (;;) {
        const drawn = fill(Buffer.alloc(6)).readUIntLE(0, 6);
        if (drawn < even) return min + (drawn % range);
      }
    });
  };
  crypto.randomUUID = function (options) {
    randomUUID(options);
    const hex = fill(Buffer.alloc(16));
    hex[6] = (hex[6] & 0x0f) | 0x40;
    hex[8] = (hex[8] & 0x3f) | 0x80;
    return hex.toString("hex").replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  };
  const { Crypto } = globalThis;
  if (!Crypto) return;
  const { getRandomValues } = Crypto.prototype;
  Crypto.prototype.getRandomValues = function (view) {
    getRandomValues.call(this, view);
    return view.byteLength > CHUNK ? view : fill(view);
  };
  Crypto.prototype.randomUUID = function () {
    return crypto.randomUUID();
  };
  crypto.getRandomValues = (view) => crypto.webcrypto.getRandomValues(view);
}

function renew() {
  renewMath();
  readCryptoFromKernel();
}

module.exports = { renew };
