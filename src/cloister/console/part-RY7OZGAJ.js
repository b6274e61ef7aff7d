import{a,b}from"./part-62EVJJLL.js";import"./part-KBEWRU56.js";export{a as KeyTable,b as Keys};
