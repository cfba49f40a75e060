"use strict";
// Curves (by uPlot), sortable tables and players of the report page. All data stand in the page itself.
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const charts = [];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function number(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (value < 0) return "\u2212" + number(size);
    if (size !== 0 && (size < 1e-2 || size >= 1e6)) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
    return String(Number(value.toPrecision(4)));
  }

  function drawChart(figure) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const holder = figure.querySelector(".plot");
    const legend = figure.querySelector(".legend");
    const chart = { figure, spec, log: spec.log === true, plot: null, shown: spec.series.map(() => true), values: [] };

    function stroke(series) {
      const solid = series.color === null ? colour("--ink") : colour("--c" + (series.color % 8));
      return series.faint ? solid + "a0" : solid;
    }

    function options() {
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false },
        font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
      const series = spec.series.map((one, index) => ({
        label: one.label, show: chart.shown[index], stroke: stroke(one), spanGaps: true,
        width: one.kind === "points" ? 0 : one.faint ? 1.2 : 1.8,
        dash: one.dashed ? [6, 4] : undefined,
        paths: one.kind === "points" ? () => null : undefined,
        points: one.kind === "points" ? { show: true, size: 5, fill: stroke(one) + "99", stroke: "transparent", width: 0 }
          : { show: one.marks === true, size: 5, fill: stroke(one) },
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

    function near(values, index) {
      for (let reach = 0; reach < values.length; reach++) {
        for (const place of [index - reach, index + reach]) {
          if (place >= 0 && place < values.length && values[place] !== null) return values[place];
        }
      }
      return null;
    }

    function showValues(index) {
      const none = index === null || index === undefined;
      chart.values.forEach((slot, which) => {
        const series = spec.series[which];
        if (series.kind === "points") { slot.textContent = none ? "" : number(series.values[index]); return; }
        slot.textContent = number(none ? lastOf(series.values) : near(series.values, index));
      });
      if (chart.place) chart.place.textContent = none ? "" : spec.xlabel + " " + number(spec.x[index]);
    }

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

    function data() {
      const positive = (value) => (chart.log && value !== null && value <= 0 ? null : value);
      return [spec.x, ...spec.series.map((one) => one.values.map(positive))];
    }

    function build() {
      const before = chart.plot ? [chart.plot.scales.x.min, chart.plot.scales.x.max] : null;
      if (chart.plot) chart.plot.destroy();
      chart.plot = new uPlot(options(), data(), holder);
      if (before && before[0] !== null) chart.plot.setScale("x", { min: before[0], max: before[1] });
      showValues(null);
    }

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
        button.title = "show or hide";
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
      chart.place = document.createElement("span");
      chart.place.className = "value";
      legend.append(chart.place);
    }

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

  function sortable(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const numeric = head.dataset.kind === "number";
        const now = head.getAttribute("aria-sort");
        const order = now ? (now === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const body = table.tBodies[0];
        const key = (row) => {
          const cell = row.cells[column];
          const told = "value" in cell.dataset ? cell.dataset.value : cell.textContent;
          return numeric ? (told === "" ? null : Number(told)) : told;
        };
        const rows = Array.from(body.rows).map((row) => [key(row), row]);
        rows.sort(([one], [other]) => {
          if (one === null || other === null) return (one === null) - (other === null);
          return numeric ? sign * (one - other) : sign * one.localeCompare(other, undefined, { numeric: true });
        });
        body.append(...rows.map((pair) => pair[1]));
      });
    });
  }

  function filter(input) {
    const rows = Array.from(document.getElementById(input.dataset.filter).tBodies[0].rows);
    const texts = rows.map((row) => row.textContent.toLowerCase());
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows.forEach((row, index) => { row.hidden = !wanted.every((word) => texts[index].includes(word)); });
    });
  }

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
      audio.play().catch(() => {});  // a browser may want to be asked first
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
