// The what-if panel: plans again in the page, by the formula of partitioner/cost.py, for the settings of its controls.
(function () {
  "use strict";
  var place = document.getElementById("whatif-data");
  if (!place) return;
  var plan = JSON.parse(place.textContent);
  var figure = edgecutReport.figures.whatif;
  var section = document.getElementById("whatif-section");
  var said = document.getElementById("whatif-said");
  var tableBody = document.getElementById("whatif-rows");
  // Settings in SI units; fields and sliders show them times `shown`. A logarithmic slider stands at log10 of that.
  var CONTROLS = {
    uplink_bps: { id: "uplink", shown: 1e-6, log: true, unit: "Mbit/s", name: "The uplink" },
    rtt_s: { id: "rtt", shown: 1e3, log: false, unit: "ms", name: "The round trip" },
    slowdown: { id: "slowdown", shown: 1, log: true, unit: "times", name: "The slow-down" },
  };
  var WORDS = {
    latency: ["least latency", "would be faster"],
    energy: ["least energy", "would need less"],
    weighted: ["least sum of latency and weighted energy", "would cost less"],
    edp: ["least energy-delay product", "would cost less"],
  };
  var at = Object.assign({}, plan.start);

  function sum(parts) {
    return parts.indexOf(null) < 0 ? parts.reduce(function (a, b) { return a + b; }, 0) : null;
  }

  function times(value, factor) {
    return value === null ? null : value * factor;
  }

  function cost(row) {
    var crosses = row.role !== "edge-only";
    var up = (row.uplink_bytes * 8) / at.uplink_bps;
    var link = (crosses ? at.rtt_s : 0) + up + row.downlink_s;
    var wait = link + row.request_s + row.cloud_s;
    var edge = row.edge_s * at.slowdown;
    var noise = row.noise_s * at.slowdown;
    var add = row.add_s * at.slowdown;
    var radio = crosses ? sum([times(plan.radio_tx_w, up), times(plan.radio_rx_w, row.downlink_s)]) : 0;
    var idle = times(plan.idle_w, Math.max(0, wait - noise));
    var made = {
      row: row,
      parts: [edge + add, Math.max(0, noise - wait), link, row.request_s, row.cloud_s],
      total_s: edge + add + Math.max(wait, noise),
      energy_j: sum([times(row.edge_j, at.slowdown), radio, idle]),
    };
    made.score = score(made);
    made.broken = row.role === "split" ? broken(made) : [];
    return made;
  }

  function score(made) {
    if (plan.objective === "latency") return made.total_s;
    if (made.energy_j === null) return Infinity;
    if (plan.objective === "energy") return made.energy_j;
    if (plan.objective === "edp") return made.energy_j * made.total_s;
    return made.total_s + plan.weight_s_per_j * made.energy_j;
  }

  // What is not known keeps to no limit.
  function broken(made) {
    var row = made.row;
    function above(value, most) {
      return most !== null && !(value !== null && value <= most);
    }
    return [
      above(row.edge_memory_bytes, plan.limits.edge_memory_bytes) && "edge memory",
      above(made.energy_j, plan.limits.edge_energy_j) && "edge energy",
      above(made.total_s, plan.limits.latency_s) && "latency",
      plan.limits.min_depth !== null && !(row.depth !== null && row.depth >= plan.limits.min_depth) && "depth",
      above(row.leakage_bits, plan.limits.leakage_bits) && "leakage",
    ].filter(Boolean);
  }

  function best(made) {
    var splits = made.filter(function (one) { return one.row.role === "split"; });
    var timed = splits.filter(function (one) { return one.row.timed; });
    return (timed.length ? timed : splits).reduce(function (least, one) {
      return !one.broken.length && (least === null || one.score < least.score) ? one : least;
    }, null);
  }

  function digits(value) {
    var size = Math.abs(value);
    return value.toFixed(size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0);
  }

  function amount(made) {
    return digits(made.total_s * 1e3) + " ms" + (made.energy_j === null ? "" : ", " + digits(made.energy_j * 1e3) + " mJ");
  }

  function sentence(made, chosen) {
    if (chosen === null) {
      return "With these settings no split keeps to the plan's limits: the table below says which each one breaks.";
    }
    var words = WORDS[plan.objective];
    var text = "The split with the " + words[0] + " is after " + chosen.row.name + ": " + amount(chosen) + " per inference";
    var planned = made.filter(function (one) { return one.row.role === "split" && one.row.name === plan.deployed; })[0];
    text += chosen === planned ? ", as deployed." : "; the deployed one, after " + plan.deployed + ", takes " + amount(planned) + ".";
    var better = made.filter(function (one) { return one.row.role !== "split" && one.score < chosen.score; });
    if (!better.length) return text + " It beats every baseline.";
    return text + " Without a split: " + better.map(function (one) { return one.row.label + " (" + amount(one) + ")"; }).join(" and ") + " " + words[1] + ".";
  }

  function cells(texts, row) {
    texts.forEach(function (text, place) {
      var cell = document.createElement(place ? "td" : "th");
      if (!place) cell.scope = "row";
      if (place === 4) cell.className = "text";
      cell.textContent = text;
      row.appendChild(cell);
    });
  }

  function fillTable(made, chosen) {
    tableBody.textContent = "";
    made.forEach(function (one) {
      var row = document.createElement("tr");
      if (one === chosen) row.className = "chosen";
      cells(
        [
          one.row.label + (one === chosen ? " \u2605" : ""),
          digits(one.total_s * 1e3),
          one.energy_j === null ? "unavailable" : digits(one.energy_j * 1e3),
          chosen === null ? "\u2013" : (one.score / chosen.score).toPrecision(3),
          one.broken.join(", ") || "\u2013",
        ],
        row
      );
      tableBody.appendChild(row);
    });
  }

  function fillFigure(made, chosen) {
    figure.data.forEach(function (trace, part) {
      trace.x = made.map(function (one) { return one.parts[part] * 1e3; });
      trace.hovertext = made.map(function (one) {
        return "<b>" + one.row.hover + "</b><br>" + trace.name + " " + digits(one.parts[part] * 1e3) + " ms, modelled";
      });
    });
    function names(length) {
      return made.map(function (one) { return one.row[length] + (one === chosen ? " \u2605" : ""); });
    }
    figure.layout.yaxis.ticktext = names("tick");
    figure.layout.meta.narrow = names("narrow");
    edgecutReport.redraw("whatif");
  }

  function update() {
    var made = plan.rows.map(cost);
    var chosen = best(made);
    said.textContent = sentence(made, chosen);
    section.dataset.choice = chosen === null ? "" : chosen.row.name;
    section.dataset.totalS = chosen === null ? "" : String(chosen.total_s);
    section.dataset.energyJ = chosen === null || chosen.energy_j === null ? "" : String(chosen.energy_j);
    fillTable(made, chosen);
    fillFigure(made, chosen);
  }

  function showSlider(key) {
    var control = CONTROLS[key];
    var value = at[key] * control.shown;
    control.slider.value = control.log ? Math.log10(value) : value;
    control.slider.setAttribute("aria-valuetext", Number(value.toPrecision(3)) + " " + control.unit);
  }

  function showField(key) {
    var control = CONTROLS[key];
    // Twelve digits hide what the change of units did to the last ones, and the setting itself keeps them.
    control.field.value = Number((at[key] * control.shown).toPrecision(12));
    complain(control, "");
  }

  function complain(control, text) {
    control.error.textContent = text;
    if (text) control.field.setAttribute("aria-invalid", "true");
    else control.field.removeAttribute("aria-invalid");
  }

  function prepare(key) {
    var control = CONTROLS[key];
    var range = plan.range[key].map(function (bound) { return bound * control.shown; });
    control.field = document.getElementById("whatif-" + control.id);
    control.slider = document.getElementById("whatif-" + control.id + "-slider");
    control.error = document.getElementById("whatif-" + control.id + "-error");
    control.field.min = range[0];
    control.field.max = range[1];
    control.slider.min = control.log ? Math.log10(range[0]) : range[0];
    control.slider.max = control.log ? Math.log10(range[1]) : range[1];
    control.slider.step = control.log ? 0.01 : 1;
    control.field.addEventListener("input", function () {
      var value = control.field.valueAsNumber;
      if (!(value >= range[0] && value <= range[1])) {
        complain(control, control.name + " is a number from " + Number(range[0].toPrecision(3)) + " to " + Number(range[1].toPrecision(3)) + ".");
        return;
      }
      complain(control, "");
      at[key] = value / control.shown;
      showSlider(key);
      update();
    });
    control.slider.addEventListener("input", function () {
      var value = Number(control.slider.value);
      var shown = Number((control.log ? Math.pow(10, value) : value).toPrecision(3));
      at[key] = Math.min(Math.max(shown, range[0]), range[1]) / control.shown;
      control.slider.setAttribute("aria-valuetext", shown + " " + control.unit);
      showField(key);
      update();
    });
  }

  function reset() {
    at = Object.assign({}, plan.start);
    Object.keys(CONTROLS).forEach(function (key) {
      showField(key);
      showSlider(key);
    });
    update();
  }

  Object.keys(CONTROLS).forEach(prepare);
  document.getElementById("whatif-reset").addEventListener("click", reset);
  section.hidden = false;
  reset();
})();
