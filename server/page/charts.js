"use strict";
// The three charts of the last ten minutes: requests, p99, errors. They show the backends with the
// most requests, at most eight.

const charts = (() => {
  const seriesMax = 8;
  /** The minimum number of points in a chart. */
  const pointsMin = 30;
  /** Ticks after which the busiest backends are chosen again. */
  const chooseEvery = 30;
  const kinds = [
    { id: "chart-rps", title: "Requests", unit: "/s", of: (backend) => backend.rps, fill: true },
    { id: "chart-p99", title: "p99, time to the response's head", unit: "ms", of: (backend) => backend.p99, logY: true },
    {
      id: "chart-errors",
      title: "Errors and refusals",
      unit: "/s",
      of: (backend) => backend.errors.map((errors, at) => (errors === null ? null : errors + backend.refused[at])),
    },
  ];
  let shown = [];
  let drawn = [];

  /** Returns the busiest backends over the charted time, in the configured order. */
  function choose() {
    const sum = (backend) => backend.rps.reduce((all, rps) => all + (rps ?? 0), 0);
    const ranked = store.backends.map((backend) => [sum(backend), backend]);
    ranked.sort(([one, a], [other, b]) => other - one || a.place - b.place);
    return ranked
      .slice(0, seriesMax)
      .map(([, backend]) => backend)
      .sort((one, other) => one.place - other.place);
  }

  function rebuild() {
    drawn.forEach((chart) => chart.end());
    shown = choose();
    const series = shown.map((backend, place) => ({ label: backend.name, series: place + 1 }));
    const more = store.backends.length > shown.length ? ` · ${shown.length} of ${store.backends.length} backends` : "";
    drawn = kinds.map((kind) =>
      look.chart(document.getElementById(kind.id), {
        title: kind.title + more,
        unit: kind.unit,
        logY: kind.logY,
        height: 170,
        sync: "live",
        series: series.map((one) => ({ ...one, fill: kind.fill && series.length <= 3 })),
      }),
    );
    table.mark(new Map(shown.map((backend, place) => [backend.place, place + 1])));
    draw();
  }

  function draw() {
    if (document.hidden || drawn.length === 0) return;
    const marks = store.events.flatMap(([, at, kind, text]) => {
      const tone = { switch: "--accent", ejection: "--bad", down: "--state-down", guard: "--warn" }[kind];
      return tone ? [{ at: store.seconds(at), tone, label: kind === "switch" ? "" : kind }] : [];
    });
    // The charts begin with the first figure, because a proxy that has just started has less than
    // ten minutes of them.
    const firsts = shown.map((backend) => backend.rps.findIndex((rps) => rps !== null));
    const first = Math.max(0, Math.min(...firsts.map((at) => (at < 0 ? Infinity : at)), store.times.length - pointsMin));
    const times = store.times.slice(first);
    kinds.forEach((kind, place) => {
      drawn[place].set([times, ...shown.map((backend) => kind.of(backend).slice(first))]);
      drawn[place].mark(marks);
      const last = shown.map((backend) => `${backend.name} ${look.amount(kind.of(backend).at(-1), kind.unit)}`);
      drawn[place].speak(`${kind.title} of the last ten minutes. Now: ${last.join(", ")}`);
    });
  }

  let ticks = 0;
  store.on("backends", rebuild);
  store.on("tick", () => {
    ticks += 1;
    const isOther = ticks % chooseEvery === 0 && choose().some((backend, place) => backend !== shown[place]);
    if (isOther) rebuild();
    else draw();
  });
  document.addEventListener("visibilitychange", draw);
})();
