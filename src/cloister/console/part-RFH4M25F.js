import{a,b}from"./part-2ISDUKPZ.js";import"./part-L6WIO6PV.js";export{a as KeyTable,b as Keys};
