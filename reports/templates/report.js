// Draws the figures from the JSON in the page, in the page's own colours, and again where those or the width change.
var edgecutReport = (function () {
  "use strict";
  var root = document.documentElement;
  var figures = JSON.parse(document.getElementById("figure-data").textContent);
  var config = { displayModeBar: false, responsive: true, showTips: false };
  var PRINT_WIDTH = 660;
  var PRINT_HEIGHT = 880;
  var PHONE_WIDTH = 520;
  var CROWDED = 14;
  var opened = [];
  var started = false;

  function colour(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function paintAxis(axis, small) {
    axis.gridcolor = colour("--grid");
    axis.zerolinecolor = colour("--muted");
    axis.nticks = small ? 5 : 10;
    if (small && axis.title) axis.title.font.size = 11;
  }

  function painted(figure, place, width) {
    var made = JSON.parse(JSON.stringify(figure));
    var ink = colour("--ink");
    var paper = colour("--paper");
    var small = (width || place.clientWidth) < PHONE_WIDTH;
    var rows = made.layout.yaxis.tickvals;
    made.data.forEach(function (trace) {
      if (trace.meta === "ink") {
        trace.marker.color = ink;
        trace.marker.line.color = paper;
        if (trace.error_x) trace.error_x.color = ink;
      }
      if (trace.textfont) trace.textfont.color = ink;
    });
    made.layout.font.color = ink;
    made.layout.font.size = small ? 11 : 13;
    paintAxis(made.layout.xaxis, small);
    if (rows && made.layout.meta) {
      made.layout.yaxis.tickfont = { size: small || rows.length > CROWDED ? 11 : 13 };
      if (small) made.layout.yaxis.ticktext = made.layout.meta.narrow;
    } else {
      paintAxis(made.layout.yaxis, small);
    }
    if (width) {
      made.layout.width = width;
      // A figure on paper cannot go on overleaf; its rows come closer, and their names smaller.
      if (rows && made.layout.height > PRINT_HEIGHT) {
        made.layout.height = PRINT_HEIGHT;
        made.layout.yaxis.tickfont = { size: Math.max(5, Math.min(11, Math.floor((0.75 * PRINT_HEIGHT) / rows.length))) };
      }
    } else {
      made.layout.autosize = true;
    }
    return made;
  }

  function show(name, width) {
    var place = document.getElementById("figure-" + name);
    // What is hidden has no width to draw for.
    if (place.offsetParent === null && !width) return Promise.resolve();
    var made = painted(figures[name], place, width);
    return Plotly.react(place, made.data, made.layout, config);
  }

  function draw(width) {
    return Promise.all(
      Object.keys(figures).map(function (name) {
        return show(name, width);
      })
    );
  }

  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    draw();
  });
  window.addEventListener("beforeprint", function () {
    root.dataset.scheme = "light";
    opened = Array.prototype.slice.call(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (part) {
      part.open = true;
    });
    draw(PRINT_WIDTH);
  });
  window.addEventListener("afterprint", function () {
    delete root.dataset.scheme;
    opened.forEach(function (part) {
      part.open = false;
    });
    draw();
  });
  document.addEventListener("DOMContentLoaded", function () {
    started = true;
    draw().then(function () {
      root.dataset.ready = "true";
    });
  });
  return {
    figures: figures,
    redraw: function (name) {
      if (started) show(name);
    },
  };
})();
