"use strict";
(() => {
  const order = new Intl.Collator(undefined, { numeric: true });
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const data = (box, kind) => {
    const script = box.querySelector(`script[data-kind="${kind}"]`);
    return script && JSON.parse(script.textContent);
  };

  // ------------------------------------------------------------------------------------------------------------ tables

  class SortableTable {
    constructor(box) {
      this.grid = box.querySelector("table");
      this.heads = [...this.grid.tHead.rows[0].cells];
      this.box = box;
      this.length = Number(box.dataset.rows);
      this.leaf = Number(box.dataset.leaf); // rows at a time
      this.verdict = box.dataset.verdict === undefined ? -1 : Number(box.dataset.verdict);
      this.first = 0;
      this.matching = this.length;
      this.heads.forEach((head, column) => this.addButton(head, column));
      this.addTools(box);
    }

    get rows() { // read when they are first asked for: a page of thousands opens without
      return (this.read ??= [...[...this.grid.tBodies[0].rows].map((row) => this.ofHtml(row)), ...(data(this.box, "rows") || []).map(this.ofData)]);
    }

    ofHtml(row) {
      const cells = [...row.cells];
      return { row, cells: cells.map((cell) => cell.textContent), values: cells.map(({ dataset: { v } }) => (v === undefined ? null : Number(v))) };
    }

    ofData(cells) {
      return { cells: cells.map((cell) => [cell].flat()[0]), values: cells.map((cell) => [cell].flat()[1] ?? null) };
    }

    addButton(head, column) {
      const button = make("button", { type: "button", textContent: head.textContent });
      button.addEventListener("click", () => this.sort(column));
      head.replaceChildren(button);
    }

    addTools(box) {
      if (this.length < Number(box.dataset.filtered)) return;
      const name = `filter-${box.id}`;
      this.filter = make("input", { type: "search", id: name, autocomplete: "off" });
      this.filter.addEventListener("input", () => this.update());
      this.count = make("span", { className: "count", role: "status" });
      const tools = make("div", { className: "tools" }, make("label", { htmlFor: name, textContent: "Filter" }), this.filter, this.count);
      if (this.length > this.leaf) {
        this.leaves = [["Previous", -this.leaf], ["Next", this.leaf]].map(([textContent, by]) => {
          const button = make("button", { type: "button", textContent });
          button.addEventListener("click", () => this.turn(by));
          return button;
        });
        tools.append(...this.leaves);
      }
      box.prepend(tools);
      this.rest = box.querySelector(".rest");
      this.tell();
    }

    sort(column) {
      const head = this.heads[column];
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      this.heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const sign = ascending ? 1 : -1;
      const numeric = head.classList.contains("n");
      this.rows.sort((a, b) => {
        const [x, y] = [a.values[column], b.values[column]];
        if (numeric && (x === null || y === null)) return (x === null) - (y === null); // what has no number comes last, both ways
        return sign * (x === null || y === null ? order.compare(a.cells[column], b.cells[column]) : x - y);
      });
      this.update();
    }

    update() {
      const words = this.filter ? this.filter.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      this.shown = words.length ? this.rows.filter(({ cells }) => words.every((word) => cells.join(" ").toLowerCase().includes(word))) : this.rows;
      this.matching = this.shown.length;
      this.first = 0;
      this.draw();
    }

    turn(by) {
      this.first += by;
      this.draw();
    }

    draw() {
      this.shown ??= this.rows;
      const leaf = this.shown.slice(this.first, this.first + this.leaf);
      this.grid.tBodies[0].replaceChildren(...leaf.map((entry) => (entry.row ??= this.rowOf(entry))));
      this.tell();
    }

    tell() {
      if (!this.count) return;
      const last = Math.min(this.first + this.leaf, this.matching);
      const range = `${last ? this.first + 1 : 0} to ${last} of ${this.matching}`;
      this.count.textContent = `${range} ${this.matching < this.length ? "that match" : "rows"}`;
      if (this.rest) this.rest.textContent = `Rows ${range} of this table's ${this.length}. ${this.rest.dataset.whole} all.`;
      if (this.leaves) {
        this.leaves[0].disabled = this.first === 0;
        this.leaves[1].disabled = last === this.matching;
      }
    }

    rowOf({ cells }) {
      return make("tr", {}, ...cells.map((text, column) => {
        const cell = make("td", { className: this.heads[column].className });
        const tag = text.split(" (")[0].toLowerCase().replaceAll(" ", "-");
        cell.append(column === this.verdict ? make("span", { className: `tag ${tag}`, textContent: text }) : text);
        return cell;
      }));
    }
  }

  // ----------------------------------------------------------------------------------------------------------- figures

  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid"];
  const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon", "x"];
  const GLYPHS = ["\u25cf", "\u25a0", "\u25b2", "\u25c6", "\u25bc", "\u2b1f", "\u2716"]; // of the same shapes, for the legend
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false, showTips: false };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const seriesColour = (place) => colour(place < SYMBOLS.length ? `--series-${place}` : "--muted");
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); // plotly reads markup in its texts
  const count = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 6 });

  let library;
  const plotly = () => (library ??= (async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(make("script", { textContent: await new Response(stream).text() }));
    return window.Plotly;
  })());

  const axis = (title, type) => ({
    title: { text: escape(title), font: { size: 13 } }, type, gridcolor: colour("--rule"), linecolor: colour("--muted"), zeroline: false,
    automargin: true, exponentformat: "SI", ...(type === "log" ? { tickformat: "~s" } : {}), // whole numbers, not the last digit alone
  });
  const layout = (x, y) => ({
    xaxis: x, yaxis: y, margin: { l: 56, r: 12, t: 8, b: 48 }, height: 420, showlegend: false, hovermode: "closest", dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") },
    hoverlabel: { bgcolor: colour("--paper"), bordercolor: colour("--muted"), font: { color: colour("--ink") }, align: "left" },
  });

  const curves = (figure, state) => {
    const traces = [];
    [...figure.series.entries()].reverse().forEach(([place, series]) => { // the best on top
      const [shade, visible] = [seriesColour(place), !state.hidden.has(place)];
      const leading = place < SYMBOLS.length;
      if (leading) {
        const edge = { x: series.x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", visible };
        traces.push({ ...edge, y: series.max }, { ...edge, y: series.min, fill: "tonexty", fillcolor: `${shade}2e` });
      }
      traces.push({
        x: series.x, y: series.mean, mode: series.x.length > 40 ? "lines" : "lines+markers", visible,
        line: { color: shade, width: leading ? 2 : 1, dash: leading ? DASHES[place] : "solid" },
        marker: { symbol: leading ? SYMBOLS[place] : "circle", size: leading ? 7 : 4, color: shade },
        hovertemplate: "%{text}<extra></extra>",
        text: series.mean.map((mean, i) => `<b>${escape(series.name)}</b><br>${count(series.x[i])} ${figure.x.split(" ").pop()}` +
          `<br>loss ${mean.toFixed(4)}${series.n[i] > 1 ? ` (${series.min[i].toFixed(4)} to ${series.max[i].toFixed(4)})` : ""}` +
          `<br>${series.n[i]} seed${series.n[i] === 1 ? "" : "s"}`),
      });
    });
    return [traces, layout(axis(figure.x, state.x), axis(figure.y, state.y))];
  };

  const costs = (figure, state) => {
    const cost = figure.costs[state.cost];
    const front = new Set(cost.front);
    const places = [...figure.names.keys()].filter((place) => cost.values[place] !== null);
    const points = (kept, shade, symbol, more) => ({
      x: kept.map((place) => cost.values[place]), y: kept.map((place) => figure.loss[place]), mode: "markers",
      marker: { color: shade, symbol, size: 8, line: { width: 1.5, color: shade } }, hovertemplate: "%{text}<extra></extra>",
      text: kept.map((place) => `<b>${escape(figure.names[place])}</b><br>${escape(cost.label)}: ${count(cost.values[place])}` +
        `<br>loss ${figure.loss[place].toFixed(4)}${figure.half[place] === null ? "" : ` ± ${figure.half[place].toFixed(4)}`}`),
      ...(figure.bars === false ? {} : { error_y: { type: "data", array: kept.map((place) => figure.half[place] ?? 0), color: shade, thickness: 1, width: 0 } }),
      ...more,
    });
    const x = axis(cost.label, state.x);
    const values = new Set(places.map((place) => cost.values[place]));
    if (values.size === 1) { // plotly would show the value's thirteenth digit
      const [only] = values;
      x.range = [0.9 * only, 1.1 * only].map((end) => (state.x === "log" ? Math.log10(end) : end));
    }
    const undominated = places.filter((place) => front.has(place)).sort((a, b) => cost.values[a] - cost.values[b]);
    return [
      [
        points(places.filter((place) => !front.has(place)), colour("--muted"), "circle-open", {}),
        points(undominated, colour("--series-0"), "circle", { mode: "lines+markers", line: { width: 1, color: colour("--series-0") } }),
      ],
      layout(x, axis(figure.y, state.y)),
    ];
  };

  class LiveFigure {
    constructor(box) {
      this.box = box;
      this.figure = data(box, "figure");
      this.state = { x: this.figure.kind === "costs" && this.figure.costs[0].log ? "log" : "linear", y: "linear", cost: 0, hidden: new Set() };
      this.drawing = make("div", { className: "live" });
      this.drawing.setAttribute("role", "group");
      this.drawing.setAttribute("aria-label", box.querySelector(".drawing svg").getAttribute("aria-label"));
    }

    async open() {
      const library = await plotly();
      const controls = make("div", { className: "controls" });
      if (this.figure.kind === "costs") controls.append(this.chooser());
      this.scales = ["x", "y"].map((which) => this.scale(which));
      controls.append(...this.scales);
      this.box.append(controls, this.drawing);
      if (this.figure.kind === "curves") this.box.append(this.legend());
      this.box.classList.add("is-live");
      this.library = library;
      await this.draw();
      document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true"); // where plotly measures its texts
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    }

    draw() {
      const [traces, layout] = (this.figure.kind === "curves" ? curves : costs)(this.figure, this.state);
      return this.library.react(this.drawing, traces, layout, CONFIG);
    }

    scale(which) {
      const button = make("button", { type: "button", textContent: `log ${which}` });
      button.addEventListener("click", () => this.change({ [which]: this.state[which] === "log" ? "linear" : "log" }));
      button.setAttribute("aria-pressed", this.state[which] === "log");
      return button;
    }

    change(state) {
      Object.assign(this.state, state);
      ["x", "y"].forEach((which, i) => this.scales[i].setAttribute("aria-pressed", this.state[which] === "log"));
      this.draw();
    }

    chooser() {
      const select = make("select", { name: "cost" }, ...this.figure.costs.map((cost, value) => make("option", { value, textContent: cost.title })));
      select.addEventListener("change", () => this.change({ cost: Number(select.value), x: this.figure.costs[select.value].log ? "log" : "linear" }));
      return make("label", {}, "against ", select);
    }

    legend() {
      return make("div", { className: "legend" }, ...this.figure.series.map((series, place) => {
        const button = make("button", { type: "button" }, make("span", { className: "swatch", ariaHidden: "true", textContent: GLYPHS[place] ?? "\u2022" }), series.name);
        button.firstChild.style.color = place < SYMBOLS.length ? `var(--series-${place})` : "var(--muted)";
        button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", () => {
          const { hidden } = this.state;
          if (!hidden.delete(place)) hidden.add(place);
          button.setAttribute("aria-pressed", !hidden.has(place));
          this.draw();
        });
        return button;
      }));
    }
  }

  // --------------------------------------------------------------------------------------------------------------- start

  const copied = async (button, text) => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  };

  document.querySelectorAll("[data-table]").forEach((box) => new SortableTable(box));

  const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    near.unobserve(target);
    new LiveFigure(target).open();
  }), { rootMargin: "200px" });
  if (window.DecompressionStream) document.querySelectorAll("[data-figure]").forEach((box) => near.observe(box));

  document.querySelectorAll("[data-copy]").forEach((box) => {
    const button = make("button", { type: "button", textContent: "Copy", className: "copy" });
    button.addEventListener("click", () => copied(button, box.innerText));
    box.previousElementSibling.append(button); // its heading
  });
})();
