// Loaded between require.js and the widget manager, on pages with widgets: where their modules lie.
// Addresses are taken from this script's own, so they hold at any depth and for pages opened from a file.
(() => {
  "use strict";
  const script = document.currentScript;
  const folder = new URL(".", script.src);
  const manager = new URL(script.dataset.manager, folder).href;
  requirejs.config({
    paths: {
      anywidget: new URL("vendor/anywidget/index", folder).href,
      "@jupyter-widgets/base": `${manager}base`,
      "@jupyter-widgets/controls": `${manager}controls`,
      "@jupyter-widgets/html-manager": `${manager}html-manager`,
      "@jupyter-widgets/html-manager/dist/libembed-amd": `${manager}libembed-amd`,
    },
  });
})();
