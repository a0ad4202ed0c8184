// Sorts and filters the tables of class "sortable". Without scripts the page shows them as they are.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const cell = (row, i) => row.cells[i].textContent.trim();
  const number = (text) => (/^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?$/.test(text) ? Number(text.replaceAll(",", "")) : NaN);
  table.querySelectorAll("thead th").forEach((head) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort !== "descending", i = head.cellIndex;
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare = (a, b) => {
        const [x, y] = [number(cell(a, i)), number(cell(b, i))];
        return isNaN(x) || isNaN(y) ? cell(b, i).localeCompare(cell(a, i)) : y - x;
      };
      body.append(...rows.sort((a, b) => (down ? 1 : -1) * compare(a, b)));
    });
  });
  if (rows.length <= 8) continue;
  const label = document.createElement("label"), input = document.createElement("input");
  label.className = "filter";
  input.type = "search";
  label.append("Filter ", input);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    rows.forEach((row) => (row.hidden = !row.textContent.toLowerCase().includes(wanted)));
  });
  table.parentElement.before(label);
}
