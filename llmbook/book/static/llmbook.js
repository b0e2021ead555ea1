// Loaded first on every page: settings for the scripts that come after it.
(() => {
  "use strict";

  // Icons are drawn once. Watching the page for new ones would swap the icons inside widgets for
  // others and lose their click handlers.
  window.FontAwesomeConfig = { ...window.FontAwesomeConfig, observeMutations: false };

  // A page opened from a file may not read its neighbours, so search lists titles without excerpts.
  document.addEventListener("DOMContentLoaded", () => {
    if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
      DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
    }
    // What scrolls sideways can be scrolled from the keyboard too.
    const wide = ".wide-table, .pst-scrollable-table-container, .claim, div.cell_output .output, " +
      ".llm-figure .plot";
    for (const box of document.querySelectorAll(wide)) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    }
  });

  // A link to a claim opens the closed table in which it may stand.
  const unfold = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let box = target?.closest("details"); box; box = box.parentElement.closest("details")) {
      box.open = true;
    }
    if (target?.closest("details")) target.scrollIntoView();
  };
  window.addEventListener("hashchange", unfold);
  window.addEventListener("load", unfold);

  // Widgets set formulas in their labels through the interface of MathJax 2; answer it with MathJax 3.
  window.addEventListener("load", () => {
    const mathjax = window.MathJax;
    if (!mathjax || mathjax.Hub) return;
    mathjax.Hub = {
      Queue(...calls) {
        for (const call of calls) {
          const [what, , element] = Array.isArray(call) ? call : [];
          if (what !== "Typeset" || !element) continue;
          element.classList.add("tex2jax_process");
          mathjax.startup.promise.then(() => mathjax.typesetPromise([element]));
        }
      },
      Config() {},
    };
  });
})();
