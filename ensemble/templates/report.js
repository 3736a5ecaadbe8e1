"use strict";
for (const table of document.querySelectorAll("table.candidates")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value;
      const numeric = column > 0;
      const missing = (text) => text === "" || (numeric && Number.isNaN(Number(text)));
      const order = (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const apart = numeric ? Number(a) - Number(b) : a.localeCompare(b);
        return down ? -apart : apart;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((one) => one.open = true);
});
addEventListener("afterprint", () => closed.forEach((one) => one.open = false));
