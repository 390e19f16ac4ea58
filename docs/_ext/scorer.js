/* Scores of the search: pages of a task come before rules and programs of the gallery. */
"use strict";

var Scorer = {
  score: (result) => {
    const [page, , , , score] = result;
    if (/^(how-to|tutorials)\//.test(page)) return score + 6;
    if (/^explanation\//.test(page)) return score + 3;
    return score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
