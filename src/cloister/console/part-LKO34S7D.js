import{a,b}from"./part-SC24VPUR.js";import"./part-QCBK45G6.js";export{a as KeyTable,b as Keys};
