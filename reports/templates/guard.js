// Counts what goes wrong on the page, so that a test, or a reader, can see it: <html data-errors="0" data-ready="true">.
(function () {
  "use strict";
  var root = document.documentElement;
  root.dataset.errors = "0";
  function count() {
    root.dataset.errors = String(Number(root.dataset.errors) + 1);
  }
  window.addEventListener("error", count);
  window.addEventListener("unhandledrejection", count);
  document.addEventListener("securitypolicyviolation", count);
})();
