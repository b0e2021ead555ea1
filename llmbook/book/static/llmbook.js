// Loaded first on every page: settings for the scripts that come after it.
(() => {
  "use strict";

  // Icons are drawn once. Watching the page for new ones would swap the icons inside widgets for
  // others and lose their click handlers.
  window.FontAwesomeConfig = { ...window.FontAwesomeConfig, observeMutations: false };

  // What scrolls sideways says on which sides there is more (data-more), for the style to show it,
  // and scrolls from the keyboard too. Folds open and windows turn: each box is watched.
  document.addEventListener("DOMContentLoaded", () => {
    const look = (box) => {
      const left = box.scrollLeft, right = box.scrollWidth - box.clientWidth - left;
      const sides = [left > 1 && "left", right > 1 && "right"].filter(Boolean);
      if (sides.length) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
      box.dataset.more = sides.join(" ");
    };
    const sizes = new ResizeObserver((changed) => changed.forEach(({ target }) => look(target)));
    const wide = ".wide-table, .pst-scrollable-table-container, .claim, div.cell_output .output, " +
      ".llm-figure .plot";
    for (const box of document.querySelectorAll(wide)) {
      sizes.observe(box);
      box.addEventListener("scroll", () => look(box), { passive: true });
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

  // Claims: the pressed verdicts (none: all of them) that hold all the words.
  document.addEventListener("DOMContentLoaded", () => {
    const form = document.querySelector("form.claims-filter");
    if (!form) return;
    const [field, told] = [form.elements.words, form.querySelector("output")];
    const buttons = [...form.querySelectorAll("button")];
    const rows = [...document.querySelectorAll(".claims-list .claim")].map((box) => ({
      box, text: box.textContent.toLowerCase(),
      verdict: [...box.classList].find((name) => name.startsWith("claim-")).slice("claim-".length),
    }));
    const lists = [...document.querySelectorAll(".claims-list")].map((list) => {
      const fold = list.querySelector("details");
      return { list, fold, own: rows.filter(({ box }) => list.contains(box)) };
    });
    const choose = () => {
      const pressed = buttons.filter((b) => b.getAttribute("aria-pressed") === "true");
      const verdicts = pressed.map((b) => b.dataset.verdict);
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        row.box.hidden = (verdicts.length > 0 && !verdicts.includes(row.verdict))
          || !words.every((word) => row.text.includes(word));
      }
      const any = verdicts.length > 0 || words.length > 0;
      for (const { list, fold, own } of lists) {
        list.hidden = own.every(({ box }) => box.hidden);
        if (fold) fold.open = any && !list.hidden;
      }
      const left = rows.filter(({ box }) => !box.hidden).length;
      told.textContent = any ? `${left} of ${rows.length} shown` : `all ${rows.length} shown`;
    };
    for (const b of buttons) {
      b.addEventListener("click", () => {
        b.setAttribute("aria-pressed", String(b.getAttribute("aria-pressed") !== "true"));
        choose();
      });
    }
    field.addEventListener("input", choose);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    choose();
  });

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
