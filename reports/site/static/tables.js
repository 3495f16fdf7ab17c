// Tables with the attribute data-sortable sort by the buttons in their headers; cells carry data-value.
"use strict";

(() => {
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text : number;
  }

  // What has no value stands last, whichever the direction.
  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * collator.compare(String(a), String(b));
  }

  function sort(table, header, direction) {
    const column = header.cellIndex;
    const sign = direction === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row, valueOf(row, column)]);
    rows.sort((x, y) => compare(x[1], y[1], sign));
    body.append(...rows.map(([row]) => row));
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", direction);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("table[data-sortable] th button");
    if (!button) return;
    const header = button.closest("th");
    const first = header.dataset.first ?? "descending"; // large values first, names and ranks small first
    const second = first === "descending" ? "ascending" : "descending";
    sort(button.closest("table"), header, header.getAttribute("aria-sort") === first ? second : first);
  });
})();
