// The syntax tree of a cell's JavaScript, and the queries that both rewriters need (modules in statements.js, names in redeclare.js).
"use strict";
const { Array, Object, SyntaxError } = require("./builtins.js");
const packages = require("./packages.js");

/** The tree, or the SyntaxError. Imports, exports, `return` and `await` may stand at the top level, functions be declared twice as in a script. */
function parse(text) {
  const options = { ecmaVersion: "latest", sourceType: "script", allowReturnOutsideFunction: true, allowAwaitOutsideFunction: true };
  try {
    return { tree: packages.get("acorn").parse(text, { ...options, allowImportExportEverywhere: true, allowHashBang: true }) };
  } catch (error) {
    if (error instanceof SyntaxError) return { error };
    throw error;
  }
}

const isNode = (value) => typeof value?.type === "string";
const isFunction = (node) => /^(?:FunctionDeclaration|FunctionExpression|ArrowFunctionExpression)$/.test(node.type);

function* childrenOf(node) {
  for (const value of Object.values(node)) {
    if (Array.isArray(value)) yield* value.filter(isNode);
    else if (isNode(value)) yield value;
  }
}

/** Call see(node, parents) for every node below; where it gives false, not for those inside. */
function visit(node, see, parents = []) {
  if (see(node, parents) === false) return;
  const below = [...parents, node];
  for (const child of childrenOf(node)) visit(child, see, below);
}

/** Like visit, but not into functions and classes, whose code is not the cell's own. */
const visitOwn = (tree, see) => visit(tree, (node, parents) => see(node, parents) !== false && !isFunction(node) && !/^Class/.test(node.type));

/** The names that a binding pattern binds. */
function* namesOf(pattern) {
  if (pattern === null) return;
  if (pattern.type === "Identifier") yield pattern.name;
  else if (pattern.type === "AssignmentPattern") yield* namesOf(pattern.left);
  else if (pattern.type === "RestElement") yield* namesOf(pattern.argument);
  else if (pattern.type === "ArrayPattern") for (const element of pattern.elements) yield* namesOf(element);
  else if (pattern.type === "ObjectPattern") for (const property of pattern.properties) yield* namesOf(property.value ?? property.argument);
}

/** Where code can be put before all other code: after the directives. */
function startOf(tree) {
  const directives = tree.body.filter((node) => node.directive !== undefined);
  return directives.length ? directives.at(-1).end : (tree.body[0]?.start ?? 0);
}

module.exports = { parse, visit, visitOwn, namesOf, startOf };
