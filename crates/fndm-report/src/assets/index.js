"use strict";
// Sorting and filtering of the table of patients.
(() => {
  const table = document.getElementById("patients");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.sort ?? "";

  function sort(column, down) {
    const rows = [...body.rows];
    const numeric = rows.every((row) => key(row, column) === "" || Number.isFinite(Number(key(row, column))));
    rows.sort((a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      // What has no number stands last, whichever way.
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
    heads.forEach((head, n) => {
      if (n === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  heads.forEach((head, column) => {
    const button = head.querySelector("button.sort");
    if (!button) return;
    button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending"));
  });

  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  function show() {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of body.rows) {
      const name = row.querySelector("th").textContent.toLowerCase();
      row.hidden = !name.includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${body.rows.length}`;
  }
  filter.addEventListener("input", show);
  show();
})();
