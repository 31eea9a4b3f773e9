"use strict";
// Cells by hover, tap and keyboard; slices of figures with more than two dimensions.
(() => {
  const number = v => {
    if (v === null) return "no value";
    const size = Math.abs(v);
    return size >= 0.095 || size === 0 ? v.toFixed(2) : String(Number(v.toPrecision(2)));
  };
  const short = v => {
    if (v === null) return "?";
    const size = Math.abs(v);
    for (const digits of [2, 1, 0]) {
      let text = size.toFixed(digits);
      if (Number(text) === 0) return "0";
      if (digits === 2 && size >= 0.995) continue;
      if (text.startsWith("0.")) text = text.slice(1);
      if (v < 0) text = "-" + text;
      if (text.length <= 4) return text;
    }
    return v.toExponential(0).replace("e+", "e");
  };

  // A token may occur twice, so a position has its index, unless positions are labels.
  const name = (dim, label, index, labelled) =>
    ["position", "query", "key"].includes(dim) && !labelled && label !== String(index)
      ? `${dim} ${index} ${label}` : `${dim} ${label}`;

  function readGrid(table) {
    const source = table.dataset.numbers && document.getElementById(table.dataset.numbers);
    const figure = table.closest("figure");
    const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells].slice(1);
    const shape = [rows.length, heads.length];
    const grid = {table, rows, heads, shape, figure, data: source ? JSON.parse(source.textContent) : null, slice: 0};
    grid.labelled = [rows.map(r => r.cells[0]), heads].map(all => all.every(th => th.textContent.startsWith("[")));
    grid.entry = table.querySelector("td[tabindex='0']"); // the one cell in the tab order
    grid.readout = figure.querySelector(".readout");
    grid.selects = [...figure.querySelectorAll(".choices select")];
    return grid;
  }

  function sentence(grid, cell) {
    if (cell.dataset.say) return cell.dataset.say;
    const r = Number(cell.parentNode.dataset.r), c = cell.cellIndex - 1;
    const {row, column} = grid.table.dataset;
    const place = `${name(row, cell.parentNode.cells[0].textContent, r, grid.labelled[0])} · ${name(column, grid.heads[c].textContent, c, grid.labelled[1])}`;
    const d = grid.data, at = (grid.slice * grid.shape[0] + r) * grid.shape[1] + c;
    let text = `${place}: ${d.output} ${number(d.v[at])}${d.unit ? " " + d.unit : ""}`;
    if (d.lo) text += `, 95% CI [${number(d.lo[at])}, ${number(d.hi[at])}]`;
    if (d.n) text += `, n=${d.n}`;
    if (d.band) text += `, control up to ${number(d.band[at])}`;
    if (d.mark && d.mark[at] === "1") text += " ~ not distinguishable from its control, or from 0";
    return text;
  }

  function tell(readout, text) {
    for (const other of document.querySelectorAll(".readout.live")) other.classList.remove("live");
    readout.classList.add("live");
    readout.textContent = text;
  }

  function show(grid, cell) {
    const text = sentence(grid, cell);
    cell.setAttribute("aria-label", text);
    tell(grid.readout, text);
    for (const th of grid.marked || []) th.classList.remove("on");
    grid.marked = [cell.parentNode.cells[0], grid.heads[cell.cellIndex - 1]];
    for (const th of grid.marked) th.classList.add("on");
  }

  function go(grid, r, c) {
    const [rows, columns] = grid.shape;
    r = Math.min(rows - 1, Math.max(0, r)); c = Math.min(columns - 1, Math.max(0, c));
    const cell = grid.rows[r].cells[c + 1];
    grid.entry.tabIndex = -1;
    grid.entry = cell;
    cell.tabIndex = 0;
    cell.focus({preventScroll: true});
    cell.scrollIntoView({block: "nearest", inline: "nearest"});
  }

  function largest(grid) {
    const d = grid.data;
    if (!d) return;
    const size = grid.shape[0] * grid.shape[1], from = grid.slice * size;
    const center = d.scale[2] === "d" ? (d.scale[0] + d.scale[1]) / 2 : 0;
    let best = 0, most = -1;
    for (let i = 0; i < size; i++) {
      const v = d.v[from + i], free = !(d.mark && d.mark[from + i] === "1");
      const reach = v === null ? -1 : Math.abs(v - center) + (free ? 1e9 : 0);
      if (reach > most) { most = reach; best = i; }
    }
    const r = Math.floor(best / grid.shape[1]);
    go(grid, grid.rows.findIndex(row => Number(row.dataset.r) === r), best % grid.shape[1]);
  }

  function paint(grid) {
    const d = grid.data, [low, high, letter] = d.scale, columns = grid.shape[1];
    grid.slice = grid.selects.reduce((at, s) => at * Number(s.dataset.size) + Number(s.value), 0);
    for (const row of grid.rows) for (let c = 0; c < columns; c++) {
      const cell = row.cells[c + 1];
      const at = (grid.slice * grid.shape[0] + Number(row.dataset.r)) * columns + c, v = d.v[at];
      const level = high > low ? Math.min(32, Math.max(0, Math.round((v - low) / (high - low) * 32))) : letter === "d" ? 16 : 0;
      const marked = d.mark && d.mark[at] === "1";
      cell.className = marked ? "x" : v === null ? "" : letter + level;
      cell.textContent = (marked ? "~" : "") + short(v);
      cell.removeAttribute("aria-label");
    }
    grid.readout.textContent = "\u00a0";
  }

  function wire(table) {
    const grid = readGrid(table);
    const cellOf = event => event.target.closest && event.target.closest("td");
    table.addEventListener("mouseover", e => { const cell = cellOf(e); if (cell) show(grid, cell); });
    table.addEventListener("focusin", e => { const cell = cellOf(e); if (cell) show(grid, cell); });
    table.addEventListener("click", e => { const cell = cellOf(e); if (cell) go(grid, grid.rows.indexOf(cell.parentNode), cell.cellIndex - 1); });
    table.addEventListener("keydown", e => {
      const cell = cellOf(e);
      if (!cell || e.altKey || e.metaKey) return;
      const r = grid.rows.indexOf(cell.parentNode), c = cell.cellIndex - 1, far = e.ctrlKey;
      const moves = {ArrowUp: [r - 1, c], ArrowDown: [r + 1, c], ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1],
        Home: [far ? 0 : r, 0], End: [far ? 1e9 : r, 1e9], PageUp: [r - 10, c], PageDown: [r + 10, c]};
      if (e.key in moves) { e.preventDefault(); go(grid, ...moves[e.key]); }
      else if (e.key === "g" && !far) largest(grid);
    });
    if (grid.selects.length) {
      grid.selects[0].closest(".choices").hidden = false;
      for (const select of grid.selects) select.addEventListener("change", () => paint(grid));
    }
  }
  for (const table of document.querySelectorAll("table[role=grid]")) wire(table);

  // The other prompts of a figure are in templates, and replace it when selected.
  for (const choice of document.querySelectorAll(".prompts select")) {
    const figure = choice.closest("figure"), place = figure.querySelector(".shown");
    const first = [...place.childNodes], others = figure.querySelectorAll("template");
    choice.closest(".prompts").hidden = false;
    choice.addEventListener("change", () => {
      const at = Number(choice.value);
      place.replaceChildren(...(at ? [others[at - 1].content.cloneNode(true)] : first));
      if (at) for (const table of place.querySelectorAll("table[role=grid]")) wire(table);
    });
  }

  // Arrow keys between items with explanations: left and right within a row, up and down between rows.
  function rove(holder, items) {
    const row = item => Number(item.dataset.row), beside = item => Number(item.dataset.at || 0);
    const nearest = (item, by) => {
      for (let to = row(item) + by; to >= 0 && to <= row(items[items.length - 1]); to += by) {
        const there = items.filter(x => row(x) === to);
        if (there.length) return there.reduce((a, b) => Math.abs(beside(b) - beside(item)) < Math.abs(beside(a) - beside(item)) ? b : a);
      }
    };
    if (items.length) items[0].setAttribute("tabindex", "0");
    const readout = holder.closest("figure").querySelector(".readout");
    const say = e => { const item = e.target.closest && e.target.closest("[data-say]"); if (item) tell(readout, item.dataset.say); };
    holder.addEventListener("mouseover", say);
    holder.addEventListener("focusin", say);
    holder.addEventListener("keydown", e => {
      const at = items.indexOf(e.target);
      if (at < 0) return;
      const to = {ArrowLeft: items[at - 1], ArrowRight: items[at + 1], ArrowUp: nearest(items[at], -1),
        ArrowDown: nearest(items[at], 1), Home: items[0], End: items[items.length - 1]}[e.key];
      if (!to) return;
      e.preventDefault();
      items[at].setAttribute("tabindex", "-1");
      to.setAttribute("tabindex", "0");
      to.focus();
    });
  }
  for (const drawing of document.querySelectorAll("svg.curves")) {
    rove(drawing, [...drawing.querySelectorAll(".point")]);
  }
  for (const table of document.querySelectorAll("table.bars")) rove(table, [...table.tBodies[0].rows]);
})();
