// The order of a TypeScript class's properties: those of constructor parameters come first, as tsc has them. Sucrase assigns them in the
// constructor, after the fields; so the fields are declared before the others. Lines never change.
"use strict";
const { Set } = require("./builtins.js");
const { apply } = require("./edits.js");
const { parse, visit } = require("./syntax.js");

const PROPERTIES = /\bconstructor\s*\([^{]*?\b(?:public|private|protected|readonly)\s/;
const PROPERTY = /\b(?:(?:public|private|protected|readonly|override)\s+)+([A-Za-z_$][\w$]*)\s*[?:=,)]/g;

/** {text, back} of what sucrase made of code. */
function declareFirst(code, text) {
  if (!PROPERTIES.test(code)) return { text };
  const { tree } = parse(text);
  if (tree === undefined) return { text };
  const candidates = new Set([...code.matchAll(PROPERTY)].map(([, name]) => name));
  const edits = [];
  visit(tree, (node) => {
    if (node.type !== "ClassBody" || !node.body.some((member) => member.type === "PropertyDefinition" && !member.static)) return;
    const names = assigned(node).filter((name) => candidates.has(name));
    if (names.length) edits.push([node.start + 1, node.start + 1, ` ${names.join("; ")};`]);
  });
  return edits.length ? apply(text, edits) : { text };
}

/** The parameters of a class's constructor that its first statements assign to properties of the same name. */
function assigned(body) {
  const builder = body.body.find((member) => member.kind === "constructor")?.value;
  const parameters = new Set((builder?.params ?? []).map((one) => (one.left ?? one).name));
  const names = [];
  for (const { type, expression } of builder?.body.body ?? []) {
    const isSuper = expression?.type === "CallExpression" && expression.callee.type === "Super";
    const name = expression?.left?.object?.type === "ThisExpression" ? expression.left.property.name : undefined;
    if (name !== undefined && expression.right.name === name && parameters.has(name)) names.push(name);
    else if (!isSuper && type !== "EmptyStatement") break;
  }
  return names;
}

module.exports = { declareFirst };
