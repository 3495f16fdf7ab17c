// Tables with the attribute data-sortable sort by the buttons in their headers; cells carry data-value. Beside that:
// lines are filtered by model, columns hidden, and the pair that an address names is opened.
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

  // Lines of boards and pairs whose names hold all the words.
  for (const tool of document.querySelectorAll("[data-filter]")) {
    tool.hidden = false;
    tool.addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const line of document.querySelectorAll(".ranking tbody tr, .pair")) {
        const names = [...line.querySelectorAll("th.model, [data-name]")].map((node) => node.textContent.toLowerCase());
        line.hidden = !words.every((word) => names.some((name) => name.includes(word)));
      }
    });
  }

  // A box for each column of the board below, but for rank and model.
  for (const tool of document.querySelectorAll("[data-columns]")) {
    const table = tool.parentElement.querySelector("table");
    [...table.tHead.rows[0].cells].slice(2).forEach((header) => {
      const box = document.createElement("input");
      Object.assign(box, { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        for (const row of table.rows) row.cells[header.cellIndex].hidden = !box.checked;
      });
      const label = document.createElement("label");
      label.append(box, ` ${header.querySelector("button").textContent}`);
      tool.append(label);
    });
    tool.hidden = false;
  }

  const open = () => {
    const pair = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (pair?.tagName === "DETAILS") pair.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();
