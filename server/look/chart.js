"use strict";
// Charts of the live page and of the reports: uPlot with the common colours, numbers and marks.
// This plain script defines one global, `look`.
//
//   const chart = look.chart(figure, {
//     title: "p99", unit: "ms",                 // unit: "ms", "%", "/s", "pts" or "" x: "clock",
//     // "clock" (s since 1970), "seconds", or a unit logX: false, logY: true, height: 160, series:
//     [{ label: "A", series: 1 }],      // `series` is a colour's number; instead `colour`
//   });                                         // may name it ("--factor-queue"); `dash`: [4, 4]
//   chart.set([[x, x], [y, y]]);                // one list of x, and one list of y for each series
//   chart.mark([{ at: x, label: "switch", tone: "--bad" }]);
//
// Texts from outside are set only as text, never as HTML. A chart is drawn again when its width
// changes, or when the colours change between light and dark.

const look = (() => {
  /** The factors of a score in the order of the formula, each with its label for readers. */
  const factors = [
    ["latency", "latency"],
    ["loss", "lost pings"],
    ["errors", "errors"],
    ["inFlight", "in flight"],
    ["queue", "queue"],
    ["cpu", "CPU"],
    ["memory", "memory"],
  ];

  /** Returns the value of a named colour. A canvas does not accept the name. */
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** Returns a number with about three significant digits. */
  function number(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return "∞";
    const size = Math.abs(value);
    if (size >= 1e9) return (value / 1e9).toFixed(size < 1e10 ? 1 : 0) + " G";
    if (size >= 1e6) return (value / 1e6).toFixed(size < 1e7 ? 1 : 0) + " M";
    if (size >= 1e4) return (value / 1e3).toFixed(size < 1e5 ? 1 : 0) + " k";
    if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
    if (size >= 10) return value.toFixed(1);
    return value.toFixed(2);
  }

  /** Returns a time in ms with its unit. */
  function millis(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value >= 60000) return (value / 60000).toFixed(value < 600000 ? 1 : 0) + " min";
    if (value >= 1000) return (value / 1000).toFixed(value < 10000 ? 2 : 1) + " s";
    return number(value) + " ms";
  }

  /** Returns a number in a unit. */
  function amount(value, unit) {
    if (unit === "ms") return millis(value);
    const text = number(value);
    if (text === "–" || !unit) return text;
    return unit === "%" || unit === "/s" ? text + (unit === "%" ? " %" : unit) : `${text} ${unit}`;
  }

  /** Returns the time of day of a time in seconds since 1970. */
  function clock(seconds) {
    const two = (value) => String(value).padStart(2, "0");
    const at = new Date(seconds * 1000);
    return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  }

  /** Returns a new element with a class and a text. */
  function element(name, kind, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** The possible distances of marks on an axis with times of day, s. */
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400];

  const drawn = new Set();
  const redraw = () => drawn.forEach((plot) => plot.redraw(false, true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  /** Returns a chart in a `figure` element. */
  function chart(figure, options) {
    const x = options.x ?? "clock";
    const show = (value) => amount(value, options.unit);
    const showX = (value) => (x === "clock" ? clock(value) : x === "seconds" ? millis(value * 1000) : amount(value, x));
    let marks = [];
    figure.classList.add("chart");
    const caption = element("figcaption");
    const title = element("b", "", options.title);
    const legend = element("ul", "legend");
    const at = element("span", "number");
    const items = options.series.map((one) => {
      const item = element("li");
      const swatch = element("span", "swatch");
      if (one.series) swatch.dataset.series = one.series;
      else swatch.style.setProperty("--tone", `var(${one.colour})`);
      swatch.toggleAttribute("data-dashed", Boolean(one.dash));
      const value = element("span", "number");
      item.append(swatch, element("span", "", one.label), value);
      legend.append(item);
      return value;
    });
    caption.append(title, legend);
    const place = element("div");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", options.spoken ?? options.title);
    figure.append(caption, place);

    const stroke = (one) => () => colour(one.series ? `--series-${one.series}` : one.colour);
    const axis = (extra) => ({
      stroke: () => colour("--muted"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: () => colour("--line"), width: 1 },
      ticks: { show: false },
      filter: (plot, splits) => splits,
      ...extra,
    });
    const drawMarks = (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      ctx.textAlign = "left";
      ctx.textBaseline = "alphabetic";
      let free = -Infinity;
      for (const mark of marks) {
        if (mark.at < plot.scales.x.min || mark.at > plot.scales.x.max) continue;
        const left = Math.round(plot.valToPos(mark.at, "x", true));
        ctx.strokeStyle = ctx.fillStyle = colour(mark.tone ?? "--muted");
        ctx.lineWidth = devicePixelRatio;
        ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
        ctx.beginPath();
        ctx.moveTo(left, bbox.top);
        ctx.lineTo(left, bbox.top + bbox.height);
        ctx.stroke();
        const width = mark.label ? ctx.measureText(mark.label).width : 0;
        const fits = left > free && left + width < bbox.left + bbox.width;
        if (mark.label && fits) {
          // Above the lines of the chart, so that neither hides the other.
          ctx.fillText(mark.label, left, bbox.top - 4 * devicePixelRatio);
          free = left + width + 8 * devicePixelRatio;
        }
      }
      ctx.restore();
    };
    const readOut = (plot) => {
      const index = plot.cursor.idx ?? plot.data[0].length - 1;
      at.textContent = plot.cursor.idx === null || plot.cursor.idx === undefined ? "" : showX(plot.data[0][index]);
      items.forEach((item, number) => {
        const values = plot.data[number + 1] ?? [];
        item.textContent = show(values[index]);
      });
    };
    const floorOf = (low) => 10 ** Math.floor(Math.log10(low));
    /** Returns the marks 1, 2 and 5 of each decade, or only 1 if there are many. */
    const splitLog = (plot, axisNumber, low, high) => {
      const parts = Math.log10(high / low) > 2.5 ? [1] : [1, 2, 5];
      const found = [];
      for (let decade = floorOf(low); decade <= high; decade *= 10) found.push(...parts.map((part) => part * decade));
      return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    };
    /** Returns the marks of an axis with times of day: whole minutes or other round times, at least
     * about 90 px apart. */
    const splitClock = (plot, axisNumber, low, high) => {
      const most = Math.max(2, plot.bbox.width / devicePixelRatio / 90);
      const step = steps.find((one) => (high - low) / one <= most) ?? 86400;
      const found = [];
      for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
      return found;
    };
    const labels = (plot, splits) => splits.map((value) => (value === null ? "" : show(value)));
    const labelsX = (plot, splits) => splits.map((value) => (value === null ? "" : showX(value)));
    const settings = {
      width: Math.max(120, place.clientWidth || figure.clientWidth),
      height: options.height ?? 150,
      // The labels of the marks are above the lines.
      padding: [17, null, null, null],
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, sync: options.sync ? { key: options.sync } : undefined },
      scales: {
        x: { time: false, distr: options.logX ? 3 : 1, range: options.rangeX },
        y: {
          distr: options.logY ? 3 : 1,
          range: (plot, low, high) => {
            if (low === null || high === null) return options.logY ? [1, 10] : [0, 1];
            if (options.logY) return [floorOf(Math.max(low, 1e-3)), Math.max(floorOf(Math.max(low, 1e-3)) * 10, high * 1.2)];
            return [Math.min(0, low), options.most ?? (high > 0 ? high * 1.12 : 1)];
          },
        },
      },
      axes: [
        axis({ values: labelsX, space: 80, size: 28, splits: x === "clock" ? splitClock : options.logX ? splitLog : undefined }),
        axis({ values: labels, size: 58, space: 26, splits: options.logY ? splitLog : undefined }),
      ],
      series: [
        {},
        ...options.series.map((one) => ({
          stroke: stroke(one),
          width: one.width ?? 1.75,
          dash: one.dash,
          fill: one.fill ? () => colour(one.series ? `--series-${one.series}` : one.colour) + "22" : undefined,
          points: { show: false },
          spanGaps: false,
        })),
      ],
      hooks: { draw: [drawMarks], setCursor: [readOut], setData: [readOut] },
    };
    caption.insertBefore(at, legend);
    const plot = new uPlot(settings, options.series.reduce((data) => [...data, []], [[]]), place);
    drawn.add(plot);
    const watcher = new ResizeObserver(() => {
      const width = Math.floor(place.clientWidth);
      if (width > 0 && width !== plot.width) plot.setSize({ width, height: plot.height });
    });
    watcher.observe(place);
    return {
      set: (data) => plot.setData(data),
      mark: (list) => {
        marks = list;
        plot.redraw(false);
      },
      speak: (text) => place.setAttribute("aria-label", text),
      end: () => {
        watcher.disconnect();
        drawn.delete(plot);
        plot.destroy();
        figure.replaceChildren();
      },
    };
  }

  return { chart, factors, number, millis, amount, clock, element, colour };
})();
