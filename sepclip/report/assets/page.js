"use strict";
// Curves (by uPlot), sortable tables and players of the report page. All data is in the page itself.
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const charts = [];  // one object per figure, so that charts with the same sync can zoom together
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Return a number as short text, with a dash for a missing one.
  function number(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (value < 0) return "\u2212" + number(size);
    if (size !== 0 && (size < 1e-2 || size >= 1e6)) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
    return String(Number(value.toPrecision(4)));
  }

  // Draw the chart of a figure from the JSON in its script element, and connect its buttons and its legend.
  function drawChart(figure) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const holder = figure.querySelector(".plot");
    const legend = figure.querySelector(".legend");
    const chart = { figure, spec, log: spec.log === true, plot: null, shown: spec.series.map(() => true), values: [] };

    function stroke(series) {
      const solid = series.color === null ? colour("--ink") : colour("--c" + (series.color % 8));
      return series.faint ? solid + "a0" : solid;
    }

    // Return the options of uPlot; called again by every build, since colours and the axis may have changed.
    function options() {
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false },
        font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
      const series = spec.series.map((curve, index) => ({
        label: curve.label, show: chart.shown[index], stroke: stroke(curve), spanGaps: true,
        width: curve.kind === "points" ? 0 : curve.faint ? 1.2 : 1.8,
        dash: curve.dashed ? [6, 4] : undefined,
        paths: curve.kind === "points" ? () => null : undefined,
        points: curve.kind === "points" ? { show: true, size: 5, fill: stroke(curve) + "99", stroke: "transparent", width: 0 }
          : { show: curve.marks === true, size: 5, fill: stroke(curve) },
      }));
      return {
        width: holder.clientWidth, height: holder.clientHeight, series: [{}, ...series],
        legend: { show: false },
        scales: { x: { time: false }, y: { distr: chart.log ? 3 : 1 } },
        axes: [
          Object.assign({ label: spec.xlabel, labelSize: 20, size: 30, values: (_, ticks) => ticks.map(number) }, axis),
          Object.assign({ size: 54, values: (_, ticks) => ticks.map((tick) => (tick === null ? null : number(tick))) }, axis),
        ],
        cursor: { sync: spec.sync ? { key: spec.sync, setSeries: false } : undefined,
          drag: { x: true, y: false, dist: 5 }, points: { size: 6 } },
        hooks: {
          setCursor: [(plot) => showValues(plot.cursor.idx)],
          setScale: [(plot, key) => { if (key === "x") zoomed(plot); }],
          draw: [drawLines],
        },
      };
    }

    // Draw the vertical lines of the chart over its curves.
    function drawLines(plot) {
      const context = plot.ctx;
      for (const line of spec.vlines || []) {
        const x = plot.valToPos(line.at, "x", true);
        if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue;
        context.save();
        context.strokeStyle = colour("--ink");
        context.setLineDash([6, 4]);
        context.beginPath();
        context.moveTo(x, plot.bbox.top);
        context.lineTo(x, plot.bbox.top + plot.bbox.height);
        context.stroke();
        context.restore();
      }
    }

    function lastOf(values) {
      for (let index = values.length - 1; index >= 0; index--) if (values[index] !== null) return values[index];
      return null;
    }

    // Return the value that is nearest to an index: series on a common x have gaps.
    function near(values, index) {
      for (let reach = 0; reach < values.length; reach++) {
        for (const candidate of [index - reach, index + reach]) {
          if (candidate >= 0 && candidate < values.length && values[candidate] !== null) return values[candidate];
        }
      }
      return null;
    }

    // Show the values at the mouse in the legend, or the last values if the mouse is elsewhere.
    function showValues(index) {
      const none = index === null || index === undefined;
      chart.values.forEach((slot, which) => {
        const series = spec.series[which];
        if (series.kind === "points") { slot.textContent = none ? "" : number(series.values[index]); return; }
        slot.textContent = number(none ? lastOf(series.values) : near(series.values, index));
      });
      if (chart.position) chart.position.textContent = none ? "" : spec.xlabel + " " + number(spec.x[index]);
    }

    // After a zoom, enable the button that resets it, and zoom all charts with the same sync.
    function zoomed(plot) {
      const whole = [spec.x[0], spec.x[spec.x.length - 1]];
      const scale = plot.scales.x;
      const inside = scale.min > whole[0] || scale.max < whole[1];
      figure.dataset.zoomed = inside ? "yes" : "no";
      figure.dataset.range = scale.min + " " + scale.max;
      const reset = figure.querySelector("[data-do=whole]");
      if (reset) reset.disabled = !inside;
      if (!spec.sync || chart.following) return;
      for (const other of charts) {
        if (other === chart || other.spec.sync !== spec.sync || !other.plot) continue;
        other.following = true;
        other.plot.setScale("x", { min: scale.min, max: scale.max });
        other.following = false;
      }
    }

    // Return the data of uPlot, on a logarithmic axis without the values that it cannot show.
    function data() {
      const positive = (value) => (chart.log && value !== null && value <= 0 ? null : value);
      return [spec.x, ...spec.series.map((curve) => curve.values.map(positive))];
    }

    // Draw the chart, or draw it again in the same range.
    function build() {
      const before = chart.plot ? [chart.plot.scales.x.min, chart.plot.scales.x.max] : null;
      if (chart.plot) chart.plot.destroy();
      chart.plot = new uPlot(options(), data(), holder);
      if (before && before[0] !== null) chart.plot.setScale("x", { min: before[0], max: before[1] });
      showValues(null);
    }

    // Add a button for each series that shows or hides it, and a text for the x at the mouse.
    function buildLegend() {
      spec.series.forEach((series, index) => {
        const button = document.createElement("button");
        const mark = document.createElement("span");
        mark.className = "mark" + (series.dashed ? " dashed" : "") + (series.kind === "points" ? " points" : "");
        mark.style.color = series.color === null ? "var(--ink)" : "var(--c" + (series.color % 8) + ")";
        mark.style.borderColor = "currentColor";
        if (series.kind === "points") mark.style.background = "currentColor";
        const value = document.createElement("span");
        value.className = "value";
        button.type = "button";
        button.title = "show or hide this curve";
        button.setAttribute("aria-pressed", "true");
        button.append(mark, series.label, value);
        button.addEventListener("click", () => {
          chart.shown[index] = !chart.shown[index];
          button.setAttribute("aria-pressed", String(chart.shown[index]));
          chart.plot.setSeries(index + 1, { show: chart.shown[index] });
        });
        chart.values.push(value);
        legend.append(button);
      });
      chart.position = document.createElement("span");
      chart.position.className = "value";
      legend.append(chart.position);
    }

    // Scale the visible range by a factor around the mouse, or around its middle.
    function zoom(factor) {
      const scale = chart.plot.scales.x;
      const cursor = chart.plot.cursor.left > 0 ? chart.plot.posToVal(chart.plot.cursor.left, "x") : (scale.min + scale.max) / 2;
      move(cursor - (cursor - scale.min) * factor, cursor + (scale.max - cursor) * factor);
    }

    function move(low, high) {
      const first = spec.x[0], last = spec.x[spec.x.length - 1];
      chart.plot.setScale("x", { min: Math.max(first, low), max: Math.min(last, high) });
    }

    const actions = {
      closer: () => zoom(0.5),
      wider: () => zoom(2),
      whole: () => move(spec.x[0], spec.x[spec.x.length - 1]),
      log: (button) => {
        chart.log = !chart.log;
        button.setAttribute("aria-pressed", String(chart.log));
        build();
      },
    };
    figure.querySelectorAll("[data-do]").forEach((button) =>
      button.addEventListener("click", () => actions[button.dataset.do](button)));
    buildLegend();
    build();
    chart.build = build;
    chart.resize = () => {
      const width = holder.clientWidth, height = holder.clientHeight;
      if (width && (width !== chart.plot.width || height !== chart.plot.height)) chart.plot.setSize({ width, height });
    };
    charts.push(chart);
  }

  // Sort a table by clicks on its headings: numbers descending first, text ascending first, missing values last.
  function sortable(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const numeric = head.dataset.kind === "number";
        const current = head.getAttribute("aria-sort");
        const order = current ? (current === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const body = table.tBodies[0];
        const key = (row) => {
          const cell = row.cells[column];
          const text = "value" in cell.dataset ? cell.dataset.value : cell.textContent;
          return numeric ? (text === "" ? null : Number(text)) : text;
        };
        const rows = Array.from(body.rows).map((row) => [key(row), row]);
        rows.sort(([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null);
          return numeric ? sign * (a - b) : sign * a.localeCompare(b, undefined, { numeric: true });
        });
        body.append(...rows.map((pair) => pair[1]));
      });
    });
  }

  // Show only the rows of a table that contain all words of a search field.
  function filter(input) {
    const rows = Array.from(document.getElementById(input.dataset.filter).tBodies[0].rows);
    const texts = rows.map((row) => row.textContent.toLowerCase());
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows.forEach((row, index) => { row.hidden = !wanted.every((word) => texts[index].includes(word)); });
    });
  }

  // Move the line over a spectrogram with its player; a click plays from there; only one player plays at a time.
  function player(sound) {
    const audio = sound.querySelector("audio");
    const picture = sound.querySelector(".picture");
    const head = sound.querySelector(".playhead");
    if (!audio || !picture) return;
    const show = () => {
      const share = audio.duration ? audio.currentTime / audio.duration : 0;
      head.style.display = audio.currentTime > 0 ? "block" : "none";
      head.style.left = 100 * share + "%";
      if (!audio.paused) window.requestAnimationFrame(show);
    };
    audio.addEventListener("play", () => {
      document.querySelectorAll("audio").forEach((other) => { if (other !== audio) other.pause(); });
      show();
    });
    audio.addEventListener("seeked", show);
    audio.addEventListener("ended", () => { head.style.display = "none"; });
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      if (audio.duration) audio.currentTime = ((event.clientX - box.left) / box.width) * audio.duration;
      audio.play().catch(() => {});  // the browser may not allow this before the first click in the page
    });
  }

  document.querySelectorAll("figure.chart").forEach(drawChart);
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll("input[data-filter]").forEach(filter);
  document.querySelectorAll(".sound").forEach(player);
  dark.addEventListener("change", () => charts.forEach((chart) => chart.build()));
  new ResizeObserver(() => charts.forEach((chart) => chart.resize())).observe(document.body);
  document.documentElement.dataset.ready = "yes";
})();
