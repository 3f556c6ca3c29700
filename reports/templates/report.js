// Draws the figures from the JSON in the page, in the page's own colours, and again where those or the width change.
(function () {
  "use strict";
  var root = document.documentElement;
  var figures = JSON.parse(document.getElementById("figure-data").textContent);
  var config = { displayModeBar: false, responsive: true, showTips: false };
  var PRINT_WIDTH = 660;
  var PHONE_WIDTH = 520;

  function colour(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function painted(figure, place, width) {
    var made = JSON.parse(JSON.stringify(figure));
    var ink = colour("--ink");
    var paper = colour("--paper");
    var small = (width || place.clientWidth) < PHONE_WIDTH;
    made.data.forEach(function (trace) {
      if (trace.meta === "ink") {
        trace.marker.color = ink;
        trace.marker.line.color = paper;
        if (trace.error_x) trace.error_x.color = ink;
      }
    });
    made.layout.font.color = ink;
    made.layout.font.size = small ? 11 : 13;
    made.layout.xaxis.gridcolor = colour("--grid");
    made.layout.xaxis.zerolinecolor = colour("--muted");
    made.layout.xaxis.nticks = small ? 5 : 10;
    if (small) made.layout.xaxis.title.font.size = 11;
    if (width) made.layout.width = width;
    else made.layout.autosize = true;
    return made;
  }

  function draw(width) {
    return Promise.all(
      Object.keys(figures).map(function (name) {
        var place = document.getElementById("figure-" + name);
        var made = painted(figures[name], place, width);
        return Plotly.react(place, made.data, made.layout, config);
      })
    );
  }

  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    draw();
  });
  window.addEventListener("beforeprint", function () {
    root.dataset.scheme = "light";
    draw(PRINT_WIDTH);
  });
  window.addEventListener("afterprint", function () {
    delete root.dataset.scheme;
    draw();
  });
  draw().then(function () {
    root.dataset.ready = "true";
  });
})();
