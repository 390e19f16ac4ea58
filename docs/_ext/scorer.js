// Sphinx's scores of a search, times a weight of the folder: pages for users come first.
var Scorer = {
  score: ([page, title, anchor, description, score]) => {
    const weights = { "how-to": 1.5, tutorials: 1.5, explanation: 1.2, auto_gallery: 0.8 };
    const folder = page.includes("/") ? page.split("/")[0] : "";
    return score * (folder === "development" ? 0.1 : (weights[folder] ?? 1));
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
