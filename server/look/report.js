"use strict";
// Draws the charts of a report when they come into view, and switches between sets of them.

{
  const charts = JSON.parse(document.getElementById("report").textContent);
  const colours = 8;

  /** Draws the chart of a figure. If there are more series than colours, further ones are dashed.
   * */
  const draw = (figure) => {
    const of = charts[Number(figure.dataset.chart)];
    const series = of.labels.map((label, index) => ({
      label,
      series: (index % colours) + 1,
      dash: index < colours ? undefined : [6, 3],
    }));
    const known = of.values.flat().filter((value) => value !== null);
    const most = Math.max(...known);
    const chart = look.chart(figure, {
      title: of.title,
      unit: of.unit,
      x: of.x,
      logX: of.logX,
      logY: of.logY && known.some((value) => value > 0),
      height: 190,
      most: of.unit === "%" && most > 50 ? 100 : undefined,
      series,
      spoken: `${of.title}: ${of.labels.join(", ")}`,
    });
    // A logarithmic scale has no zero.
    const values = of.logY ? of.values.map((line) => line.map((value) => (value > 0 ? value : null))) : of.values;
    const { first, step, count } = of.xs;
    const xs = Array.isArray(of.xs) ? of.xs : Array.from({ length: count }, (_, index) => first + index * step);
    chart.set([xs, ...values]);
    chart.mark(of.marks);
  };

  const drawOnce = (figure) => {
    if (!figures.delete(figure)) return;
    seen.unobserve(figure);
    draw(figure);
  };
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        drawOnce(entry.target);
      }
    },
    { rootMargin: "400px" },
  );
  const figures = new Set(document.querySelectorAll("figure[data-chart]"));
  figures.forEach((figure) => seen.observe(figure));
  // A printed report has every chart, including those that were never in view.
  addEventListener("beforeprint", () => [...figures].filter((figure) => figure.offsetParent).forEach(drawOnce));

  for (const select of document.querySelectorAll(".choice select")) {
    const id = select.id.slice("choice-".length);
    const show = () => {
      for (const set of document.querySelectorAll(`[data-choice="${id}"]`)) {
        set.hidden = set.dataset.set !== select.value;
      }
    };
    select.addEventListener("change", show);
    // A browser may restore the choice after a reload.
    show();
  }
}
