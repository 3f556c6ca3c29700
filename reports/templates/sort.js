// Tables of class "sortable": the column heads become buttons that sort by their column, up, down, and as it was.
(function () {
  "use strict";
  var NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  function value(row, column) {
    var cell = row.cells[column];
    var text = cell.dataset.sort === undefined ? cell.textContent.trim() : cell.dataset.sort;
    return text !== "" && isFinite(text) ? Number(text) : text;
  }

  // Numbers before words; what is missing stays last whichever way the column is sorted.
  function compare(left, right, sign) {
    if (left === "" || right === "") return (left === "") - (right === "");
    if (typeof left === "number" && typeof right === "number") return sign * (left - right);
    if (typeof left !== typeof right) return typeof left === "number" ? -1 : 1;
    return sign * left.localeCompare(right);
  }

  function sort(body, original, column, direction) {
    var rows = original.slice();
    var sign = direction === "descending" ? -1 : 1;
    if (direction !== "none") {
      rows.sort(function (one, other) {
        return compare(value(one, column), value(other, column), sign);
      });
    }
    rows.forEach(function (row) {
      body.appendChild(row);
    });
  }

  function prepare(table) {
    var body = table.tBodies[0];
    var original = Array.prototype.slice.call(body.rows);
    var heads = Array.prototype.slice.call(table.tHead.querySelectorAll("th"));
    heads.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", function () {
        var direction = NEXT[head.getAttribute("aria-sort")];
        heads.forEach(function (other) {
          other.setAttribute("aria-sort", other === head ? direction : "none");
        });
        sort(body, original, column, direction);
      });
    });
  }

  document.querySelectorAll("table.sortable").forEach(prepare);
})();
