// Runs programs by node, two at a time: `node runner.js PLACE` reads PLACE/programs.json and writes PLACE/results.json. TypeScript is compiled by
// the typescript package first.
"use strict";
const fs = require("node:fs");
const { spawn } = require("node:child_process");

const place = process.argv[2];
const programs = JSON.parse(fs.readFileSync(`${place}/programs.json`, "utf8"));
const results = [];
const OLD_IMPORT = /^import\s*[\w$]+\s*=\s*require/m;

function compiled(code, name) {
  const ts = require("/usr/local/lib/node_modules/typescript");
  const { outputText, diagnostics } = ts.transpileModule(code, {
    fileName: name,
    reportDiagnostics: true,
    compilerOptions: {
      target: "es2022",
      module: OLD_IMPORT.test(code) ? "commonjs" : "esnext",
      experimentalDecorators: code.startsWith("// experimentalDecorators"),
      verbatimModuleSyntax: !OLD_IMPORT.test(code),
      inlineSourceMap: true,
      newLine: "lf",
    },
  });
  const [first] = diagnostics;
  if (first === undefined) return { text: outputText };
  const { line } = first.file.getLineAndCharacterOfPosition(first.start);
  const message = ts.flattenDiagnosticMessageText(first.messageText, "\n");
  return { refusal: `${place}/${name}:${line + 1}\n\n^\n\nSyntaxError: ${message}\n\nNode.js v0\n` };
}

async function run(index) {
  const { code, language, isModule } = programs[index];
  const name = `${index}${isModule ? ".mjs" : ".cjs"}`;
  const { text, refusal } = language === "typescript" ? compiled(code, `${index}.ts`) : { text: code };
  if (refusal) return (results[index] = { stdout: "", stderr: refusal, code: 1 });
  fs.writeFileSync(`${place}/${name}`, text);
  const child = spawn("node", ["--enable-source-maps", `${place}/${name}`].slice(language === "typescript" ? 0 : 1), {
    stdio: ["ignore", "pipe", "pipe"],
    detached: true, // a group of its own, to end all of it
  });
  const result = { stdout: "", stderr: "", code: null };
  for (const stream of ["stdout", "stderr"]) child[stream].setEncoding("utf8").on("data", (data) => { result[stream] += data; });
  const timer = setTimeout(() => process.kill(-child.pid, "SIGKILL"), 60000);
  result.code = await new Promise((done) => child.on("close", done));
  clearTimeout(timer);
  return (results[index] = result);
}

let next = 0;
async function work() {
  while (next < programs.length) await run(next++);
}
Promise.all([work(), work()]).then(() => fs.writeFileSync(`${place}/results.json`, JSON.stringify(results)));
