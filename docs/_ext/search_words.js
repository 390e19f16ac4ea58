/* Types words into the search of a built site: node search_words.js FOLDER WORDS...
   Prints JSON: for each the pages that the search page would list, best first. */
"use strict";
const fs = require("fs");
const vm = require("vm");

const [folder, ...queries] = process.argv.slice(2);
const nothing = () => ({ dataset: {}, appendChild: (x) => x });
const page = vm.createContext({
  SPHINX_HIGHLIGHT_ENABLED: false,
  DOCUMENTATION_OPTIONS: {},
  _: (text) => text,
  _ready: () => {},
  document: {
    addEventListener: () => {},
    createElement: nothing,
    getElementById: () => null,
    querySelector: () => null,
    documentElement: nothing(),
  },
});
vm.runInContext("var window = this;", page);
for (const file of ["_static/language_data.js", "_static/searchtools.js", "searchindex.js"])
  vm.runInContext(fs.readFileSync(`${folder}/${file}`, "utf8"), page);

const found = {};
for (const query of queries) {
  page.query = query;
  const results = vm.runInContext("Search._performSearch(...Search._parseQuery(query))", page);
  found[query] = [...new Set(results.reverse().map((result) => result[0]))];
}
console.log(JSON.stringify(found));
