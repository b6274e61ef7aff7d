// Whether a child process is a server: it or a descendant listens on a TCP port. It reads /proc, at most every LOOK_MS for each child.
"use strict";
const { Date, Map, Number, Set } = require("./builtins.js");
const fs = require("node:fs");

const LOOK_MS = 500;
const LISTENING = "0A"; // state of a line of /proc/net/tcp
const looks = new Map(); // pid -> {at, answer}

/** The answer may be LOOK_MS old; the first look is as late as that, so that a short command costs nothing. */
function listens(pid) {
  const now = Date.now();
  const last = looks.get(pid);
  if (last === undefined) looks.set(pid, { at: now, answer: false });
  if (last === undefined || now - last.at < LOOK_MS) return last?.answer ?? false;
  const inodes = listeningInodes();
  const answer = inodes.size > 0 && treeOf(pid).some((one) => holds(one, inodes));
  for (const known of looks.keys()) if (!fs.existsSync(`/proc/${known}`)) looks.delete(known);
  looks.set(pid, { at: now, answer });
  return answer;
}

function listeningInodes() {
  const inodes = new Set();
  for (const file of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    for (const line of read(file).split("\n").slice(1)) {
      const fields = line.trim().split(/\s+/);
      if (fields[3] === LISTENING) inodes.add(fields[9]);
    }
  }
  return inodes;
}

/** The process and those below it. */
function treeOf(root) {
  const parents = new Map();
  for (const name of fs.readdirSync("/proc")) {
    if (/^\d+$/.test(name)) parents.set(Number(name), Number(/^PPid:\t(\d+)$/m.exec(read(`/proc/${name}/status`))?.[1]));
  }
  const tree = [root];
  for (const above of tree) for (const [pid, parent] of parents) if (parent === above) tree.push(pid);
  return tree;
}

function holds(pid, inodes) {
  try {
    const links = fs.readdirSync(`/proc/${pid}/fd`).map((fd) => linkOf(`/proc/${pid}/fd/${fd}`));
    return links.some((link) => inodes.has(/^socket:\[(\d+)\]$/.exec(link)?.[1]));
  } catch (error) {
    return ignored(error, false);
  }
}

function linkOf(path) {
  try {
    return fs.readlinkSync(path);
  } catch (error) {
    return ignored(error, "");
  }
}

function read(path) {
  try {
    return fs.readFileSync(path, "latin1");
  } catch (error) {
    return ignored(error, "");
  }
}

/** The process has ended meanwhile, or is another user's, and so no server of the cell's. */
function ignored(error, otherwise) {
  if (!["ENOENT", "ESRCH", "EACCES", "EPERM"].includes(error.code)) throw error;
  return otherwise;
}

module.exports = { listens };
