// Names that a cell declares in another kind than an earlier one: `function f` after `const f`, `let x` after `var x`. V8's REPL mode accepts
// const after const, let and class after each other, var and function after each other. All other cells are rewritten. Lines never change.
//
//   there is       the cell has             the text becomes
//   let f          function f() {}          let f = named(f', "f"); … function f'() {}       f' is f with a character that has no width
//   let a          var a = 1, b;            let a, b; … void (a = 1, b);
//   var a          const {a, b} = o;        let b; … void ({a, b} = o);
//   var C          class C {}               void (C = class C {});
//   const f        function f() {}          const f = named(f', "f"); … function f'() {}
//   const a        let a = 0; a++;          let a' = 0; a'++;                                 and a' for a in all later cells: no code can undo a const
"use strict";
const { Boolean, JSON, Map, Set } = require("./builtins.js");
const { apply } = require("./edits.js");
const { HELPER } = require("./statements.js");
const { namesOf, parse, startOf, visit, visitOwn } = require("./syntax.js");

const NO_WIDTH = "\u200c";
const TAKEN = { var: ["var"], let: ["let"], const: ["const"], class: ["let"], function: ["var"] }; // what a declaration may meet
const renamed = new Set(); // the names that are others in all cells from now on

const namesIn = (declaration) => declaration.declarations.flatMap(({ id }) => [...namesOf(id)]);

/** The text with the names that were renamed in an earlier cell: {text, back}. */
function carryOn(text) {
  const names = [...renamed].filter((name) => text.includes(name));
  return names.length ? rename(text, new Set(names)) : { text };
}

/** {text, backs} of the same program with nothing that V8 would refuse, or undefined. `kindOf(name)` is "var", "let", "const" or undefined. */
function redeclare(text, kindOf) {
  const { tree } = parse(text);
  if (tree === undefined) return undefined;
  const names = namesToRename(tree, kindOf);
  const first = names.size ? rename(text, names) : { text };
  for (const name of names) renamed.add(name);
  const second = rewrite(first.text, kindOf);
  if (!second && !names.size) return undefined;
  return { text: (second ?? first).text, backs: [second?.back, first.back].filter(Boolean) };
}

/** Those that are const and would have to change, or to be declared in another way. */
function namesToRename(tree, kindOf) {
  const names = new Set();
  const kindNow = (name) => kindOf(names.has(name) ? name + NO_WIDTH : name);
  const declarations = [];
  visitOwn(tree, (node, parents) => {
    if (node.type === "VariableDeclaration" && (node.kind === "var" || parents.length === 1)) declarations.push(node);
  });
  for (let before = -1; before !== names.size; ) {
    before = names.size;
    for (const declaration of declarations) {
      const isFine = namesIn(declaration).every((name) => fits(declaration.kind, kindNow(name)));
      if (!isFine) for (const name of namesIn(declaration)) if (kindNow(name) === "const") names.add(name);
    }
  }
  return names;
}

const fits = (declared, there) => there === undefined || TAKEN[declared].includes(there);

/** Every variable of such a name, wherever it belongs to, under the other name: what means the same still means the same. */
function rename(text, names) {
  const { tree } = parse(text);
  if (tree === undefined) return { text };
  const edits = [];
  visit(tree, (node, parents) => {
    edits.push(...namings(node, parents, names));
    if (node.type !== "Identifier" || !names.has(node.name) || !isVariable(node, parents)) return;
    const property = parents.findLast((parent) => parent.type === "Property");
    const isShort = property?.shorthand && property.key.start === node.start;
    if (!isShort) edits.push([node.end, node.end, NO_WIDTH]);
    else if (property.key === node) edits.push([node.end, node.end, `: ${node.name}${NO_WIDTH}`]); // key and value are one text
  });
  return edits.length ? apply(text, edits) : { text };
}

/** The edits by which functions and classes of such a name keep it as their own. */
function namings(node, parents, names) {
  const isWanted = (name) => names.has(name) && parents.length > 0;
  if (/^(?:Function|Class)Declaration$/.test(node.type) && isWanted(node.id?.name)) {
    const at = node.type === "ClassDeclaration" ? node.end : parents.at(-1).body.find?.((one) => one.directive === undefined)?.start;
    return at === undefined ? [] : [[at, at, `;${HELPER}.named(${node.id.name}${NO_WIDTH}, "${node.id.name}"); `]];
  }
  const isAnonymous = /^(?:Arrow)?Function|^Class/.test(node.init?.type) && !node.init.id;
  if (node.type !== "VariableDeclarator" || !isAnonymous || !isWanted(node.id.name)) return [];
  return [[node.init.start, node.init.start, `${HELPER}.named(`], [node.init.end, node.init.end, `, "${node.id.name}")`]];
}

function isVariable(node, parents) {
  const parent = parents.at(-1);
  if (parent.type === "MemberExpression") return parent.computed || parent.object === node;
  if (parent.type === "Property") return parent.computed || parent.shorthand || parent.value === node;
  if (/^(?:MethodDefinition|PropertyDefinition)$/.test(parent.type)) return parent.computed || parent.value === node;
  return !/^(?:LabeledStatement|BreakStatement|ContinueStatement|MetaProperty)$/.test(parent.type);
}

/** Declarations as assignments to what is there or to what is declared before the code; undefined when nothing is to be done. */
function rewrite(text, kindOf) {
  const { tree } = parse(text);
  if (tree === undefined) return undefined;
  const before = new Map(); // name -> [keyword, value]
  const edits = [];
  visitOwn(tree, (node, parents) => {
    const top = parents.length === 1;
    if (node.type === "FunctionDeclaration" && top && !fits("function", kindOf(node.id.name))) {
      const { name, end } = node.id;
      before.set(name, [kindOf(name), `${HELPER}.named(${name}${NO_WIDTH}, ${JSON.stringify(name)})`]);
      edits.push([end, end, NO_WIDTH]);
    } else if (node.type === "ClassDeclaration" && top && !fits("class", kindOf(node.id.name))) {
      const isVar = kindOf(node.id.name) === "var";
      edits.push([node.start, node.start, `${isVar ? "void (" : "const "}${node.id.name} = `], [node.end, node.end, isVar ? ");" : ";"]);
    } else if (node.type === "VariableDeclaration" && (node.kind === "var" || top)) {
      const names = namesIn(node);
      if (names.every((name) => fits(node.kind, kindOf(name)))) return;
      for (const name of names) if (kindOf(name) !== "var" && !before.has(name)) before.set(name, ["let", undefined]);
      edits.push(...assignments(node, parents.at(-1)));
    }
  });
  const code = [...before].map(([name, [keyword, value]]) => `${keyword} ${name}${value ? ` = ${value}` : ""};`).join(" ");
  if (code) edits.unshift([startOf(tree), startOf(tree), `;${code} `]); // the first of the edits at that place
  return edits.length ? apply(text, edits) : undefined;
}

/** The edits that make a declaration an expression. */
function assignments(declaration, parent) {
  const { kind, start, declarations } = declaration;
  const isHead = /^For/.test(parent.type) && parent.body !== declaration;
  const { end } = declarations.at(-1);
  const edits = [[start, start + kind.length, isHead ? "" : "void ("]];
  if (kind !== "var") for (const { id, init } of declarations) if (init === null) edits.push([id.end, id.end, " = undefined"]);
  if (!isHead) edits.push([end, end, ")"]);
  return edits;
}

module.exports = { carryOn, redeclare };
