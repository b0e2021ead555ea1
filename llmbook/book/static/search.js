// On the search page: a result leads to the sections that hold the words, each with an excerpt.
// Sphinx finds the pages (searchtools.js); which of their sections, `sections.js` tells.
(() => {
  "use strict";
  const PAGES = window.LLMBOOK_SECTIONS ?? {}; // {page: [[id, title, text], …]}
  const MANY = 8; // from so many pages on, one section of each is shown, else up to three
  const AROUND = 120; // letters of an excerpt on each side of a word
  const WORD = /[\p{Letter}\p{Number}_\p{Emoji_Presentation}]+/gu; // as Sphinx divides a query
  const stemmer = new Stemmer(), stems = new Map(), excerpts = new Map();
  let wanted = { stems: [], words: [] };

  const stem = (word) => {
    if (!stems.has(word)) stems.set(word, stemmer.stemWord(word));
    return stems.get(word);
  };

  // The places of each word in a text; `part`: it may be a part of another word.
  const places = (text, words, part) => {
    const found = new Map();
    for (const { 0: word, index } of text.toLowerCase().matchAll(WORD)) {
      for (const one of words) {
        if (stem(word) !== one && !(part && one.length > 2 && word.includes(one))) continue;
        if (!found.has(one)) found.set(one, []);
        found.get(one).push(index);
      }
    }
    return found;
  };

  // The sections of a page with as many of the words as any has, best first: words in its title,
  // then how often they stand in it.
  const best = (page, words, part = false) => {
    const rated = PAGES[page].map(([id, title, text], number) => {
      const [named, inside] = [places(title, words, part), places(text, words, part)];
      const often = [...inside.values()].reduce((sum, at) => sum + Math.min(at.length, 5), 0);
      const held = words.filter((word) => named.has(word) || inside.has(word)).length;
      return { id, title, number, held, rank: 10 * named.size + often };
    });
    const most = Math.max(0, ...rated.map(({ held }) => held));
    if (most === 0) return part ? [] : best(page, words, true);
    const left = rated.filter(({ held }) => held === most).sort((a, b) => b.rank - a.rank);
    return most < words.length ? left.slice(0, 1) : left; // scattered over the page: one
  };

  const escaped = (text) => Object.assign(document.createElement("i"), { textContent: text }).innerHTML;

  // What a result [page, title, anchor, description, score, file] becomes.
  const landed = (result, words, most) => {
    const [page, title, anchor, ...rest] = result;
    if (anchor || !PAGES[page]) return [result];
    const found = best(page, words).slice(0, most);
    if (!found.length) return [result];
    return found.map(({ id, title: own, number }) => number === 0
      ? result : [page, `${title} > ${escaped(own)}`, `#${id}`, ...rest]);
  };

  const search = Search._performSearch;
  Search._performSearch = (query, terms, excluded, shown, objects) => {
    wanted = { stems: [...terms], words: [...shown] };
    const results = search(query, terms, excluded, shown, objects).reverse(); // best first
    const most = new Set(results.map(([page]) => page)).size >= MANY ? 1 : 3;
    const once = new Map();
    for (const result of results.flatMap((one) => landed(one, wanted.stems, most))) {
      const link = `${result[0]}${DOCUMENTATION_OPTIONS.LINK_SUFFIX}${result[2]}`;
      if (once.has(link)) continue;
      once.set(link, result);
      const section = PAGES[result[0]]?.find(([id], i) => result[2] ? `#${id}` === result[2] : i === 0);
      if (section) excerpts.set(link, section[2]);
    }
    return [...once.values()].reverse();
  };

  const excerpt = (text) => {
    for (const part of [false, true]) {
      const at = Math.min(...[...places(text, wanted.stems, part).values()].flat());
      if (at === Infinity) continue;
      const begin = Math.max(0, at - AROUND), end = Math.min(text.length, at + AROUND);
      return (begin ? "… " : "") + text.slice(begin, end).trim() + (end < text.length ? " …" : "");
    }
    return text.slice(0, 2 * AROUND).trim() + (text.length > 2 * AROUND ? " …" : "");
  };

  // Each result as it is shown gets its excerpt from here; Sphinx would fetch the whole page.
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  Documentation.TRANSLATIONS[
    "Search finished, found ${resultCount} page(s) matching the search query."
  ] = "Places found: ${resultCount}.";
  const shown = new MutationObserver((changes) => {
    for (const item of changes.flatMap((change) => [...change.addedNodes])) {
      const text = item.nodeName === "LI" && excerpts.get(item.querySelector("a")?.getAttribute("href"));
      if (!text || item.querySelector("p.context")) continue;
      const told = item.appendChild(document.createElement("p"));
      told.className = "context";
      told.textContent = excerpt(text);
      for (const word of wanted.words) _highlightText(told, word, "highlighted");
    }
  });
  const list = document.getElementById("search-results");
  if (list) shown.observe(list, { childList: true, subtree: true });
})();
