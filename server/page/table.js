"use strict";
// The table of backends. A row is created once. A tick changes only the cells whose text has
// changed. It draws the rows on the screen and some of the others, because screen readers, a search
// in the page and printing also read those.

const table = (() => {
  const { element } = look;
  /** Columns: title, class, the figure to sort by, and the direction of the first click. */
  const titles = [
    ["State", "state-cell", "state", 1],
    ["Backend", "name", "name", 1],
    ["Share", "share", "rps", -1],
    ["Req/s", "number", "rps", -1],
    ["p50", "number", "p50", -1],
    ["p99", "number", "p99", -1],
    ["10 min", "spark", "p99", -1, "p50 and p99, 10 min"],
    ["Errors/s", "number", "errors", -1],
    ["Refused/s", "number", "refused", -1],
    ["In flight", "number", "inFlight", -1],
    ["Queue", "number", "queue", -1],
    ["Score, pts", "score", "score", 1],
    ["Signal age", "ages", null, 1, "Age of ping, report, request"],
  ];
  const signals = ["ping", "report", "request"];
  const points = ["latency", "loss", "errorPoints", "inFlightPoints", "queuePoints", "cpuPoints", "memoryPoints"];
  /** The number of rows outside the screen that a tick draws. */
  const unseenAtOnce = 24;
  const body = document.getElementById("rows");
  const filter = document.getElementById("filter-text");
  let rows = [];
  let order = { figure: null, sign: 1 };
  let seen = new Set();
  /** The index of the next row outside the screen to draw. */
  let turn = 0;
  let scale = 1;
  /** Whether rows are added as their backends arrive, because no earlier table is shown. */
  let isGrowing = false;
  /** The colours of the small charts. Read once per tick, because each read causes a layout. */
  let inks = askForInks();

  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const row = rows[target.dataset.place];
      if (!row) continue;
      if (isIntersecting) {
        seen.add(row);
        draw(row);
      } else seen.delete(row);
    }
  });

  function askForInks() {
    return { p50: look.colour("--accent"), p99: look.colour("--muted") };
  }

  /** Sets a text only if it differs, because setting an equal text also causes a layout. */
  function set(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function makeHead() {
    const head = document.getElementById("columns");
    for (const [title, kind, figure, sign, label] of titles) {
      const cell = element("th", kind === "number" ? "number" : "");
      cell.setAttribute("role", "columnheader");
      cell.scope = "col";
      if (figure && kind !== "spark") {
        const button = element("button", "", title);
        button.type = "button";
        button.addEventListener("click", () => {
          const isSame = order.figure === figure;
          order = isSame && order.sign !== sign ? { figure: null, sign: 1 } : { figure, sign: isSame ? -sign : sign };
          for (const other of head.children) other.removeAttribute("aria-sort");
          if (order.figure) cell.setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
          arrange();
        });
        cell.append(button);
      } else cell.textContent = title;
      if (kind === "ages") {
        const names = element("span", "signals");
        names.append(...signals.flatMap((signal) => [element("span", "", signal), " "]));
        cell.append(" ", names);
      }
      if (label) cell.title = label;
      head.append(cell);
    }
    const list = document.getElementById("factors");
    for (const [name, label] of look.factors) {
      const item = element("li");
      const swatch = element("span", "swatch");
      swatch.dataset.factor = name;
      item.append(swatch, element("span", "", label));
      list.append(item);
    }
  }

  function makeRow(backend) {
    const line = element("tr");
    line.setAttribute("role", "row");
    line.dataset.place = backend.place;
    const cells = titles.map(([title, kind, , , label]) => {
      const cell = element("td", kind);
      cell.setAttribute("role", "cell");
      cell.dataset.label = label ?? title;
      line.append(cell);
      return cell;
    });
    const [state, name, share, rps, p50, p99, spark, errors, refused, inFlight, queue, score, ages] = cells;
    const row = { backend, line, rps, p50, p99, errors, refused, inFlight, queue };
    row.state = element("span", "state");
    row.stateName = element("span");
    row.stateDetail = element("span", "detail");
    row.state.append(row.stateName);
    state.append(row.state, row.stateDetail);
    const button = element("button");
    button.type = "button";
    row.key = element("span", "key");
    button.append(row.key, element("span", "", backend.name));
    button.title = `${backend.name}: explain a decision`;
    button.addEventListener("click", () => explain.open(backend.name));
    const url = element("span", "url", backend.url);
    url.title = backend.url;
    name.append(button, url);
    row.share = element("span", "number");
    row.shareBar = element("span");
    const bar = element("span", "bar");
    bar.append(row.shareBar);
    share.append(row.share, bar);
    row.spark = element("canvas");
    row.spark.width = 120 * devicePixelRatio;
    row.spark.height = 26 * devicePixelRatio;
    row.spark.setAttribute("aria-hidden", "true");
    spark.append(row.spark);
    row.score = element("span", "number");
    const stack = element("div", "stack");
    stack.setAttribute("aria-hidden", "true");
    row.parts = look.factors.map(([factor]) => {
      const part = element("span");
      part.dataset.factor = factor;
      stack.append(part);
      return part;
    });
    row.scoreCell = score;
    row.scoreParts = element("span", "spoken");
    score.append(row.score, stack, row.scoreParts);
    row.ages = signals.map((signal) => {
      const age = element("span", "number");
      age.title = `age of the last ${signal}`;
      ages.append(element("span", "spoken", ` ${signal}: `), age);
      return age;
    });
    return row;
  }

  const detail = {
    ejected: (ms) => `${look.millis(ms)} left`,
    held: (ms) => (ms === null ? "stalled" : `${look.millis(ms)} left`),
    probation: (good, needed) => `${good} of ${needed}`,
    warming: (window) => `up to ${look.number(window)}`,
    full: (most) => `at ${look.number(most)}`,
  };

  function draw(row) {
    const { backend } = row;
    const figure = (name) => store.figure(backend, name);
    const state = store.state(backend);
    if (row.state.dataset.state !== state) row.state.dataset.state = row.line.dataset.state = state;
    row.line.toggleAttribute("data-fault", state === "ejected" || state === "down");
    const isCurrent = figure("current") === 1;
    set(row.stateName, isCurrent && state !== "current" ? `current, ${state}` : state);
    const text = detail[state]?.(figure("detail"), figure("needed")) ?? "";
    const weight = figure("weight");
    set(row.stateDetail, [text, weight !== 100 ? `weight ${weight} %` : ""].filter(Boolean).join(", "));
    const share = 100 * store.share(backend);
    set(row.share, `${share.toFixed(share > 0 && share < 10 ? 1 : 0)} %`);
    row.shareBar.style.width = `${share.toFixed(1)}%`;
    set(row.rps, look.number(figure("rps")));
    set(row.p50, look.millis(figure("p50")));
    set(row.p99, look.millis(figure("p99")));
    for (const name of ["errors", "refused"]) {
      set(row[name], look.number(figure(name)));
      row[name].classList.toggle("bad", figure(name) > 0);
    }
    const limit = figure("limit");
    set(row.inFlight, look.number(figure("inFlight")) + (limit ? ` / ${limit}` : ""));
    set(row.queue, look.number(figure("queue")));
    drawScore(row, figure);
    drawAges(row, figure);
    drawSpark(row);
  }

  function drawScore(row, figure) {
    const total = figure("score");
    set(row.score, look.number(total));
    const spoken = [];
    row.parts.forEach((part, place) => {
      const value = figure(points[place]) ?? 0;
      const width = Math.max(0, (100 * value) / Math.max(scale, total));
      part.style.width = `${width.toFixed(2)}%`;
      part.hidden = width < 0.4;
      if (value >= 0.5) spoken.push(`${look.factors[place][1]} ${look.number(value)}`);
    });
    const title = `points: ${spoken.join(", ") || "none"}`;
    if (row.scoreCell.title !== title) row.scoreCell.title = title;
    set(row.scoreParts, ` ${title}`);
  }

  function drawAges(row, figure) {
    ["pingAt", "reportAt", "requestAt"].forEach((name, place) => {
      const at = figure(name);
      const age = at === null ? null : Math.max(0, store.at - at);
      set(row.ages[place], age === null ? "–" : age < 100 ? "now" : `${(age / 1000).toFixed(age < 9950 ? 1 : 0)} s`);
      // Pings and reports arrive every few seconds, requests only while the backend is chosen. So
      // an old request does not count.
      row.ages[place].classList.toggle("old", place < 2 && age !== null && age > 15000);
    });
  }

  function drawSpark(row) {
    const context = row.spark.getContext("2d");
    const { width, height } = row.spark;
    context.clearRect(0, 0, width, height);
    const { p99 } = row.backend;
    const known = p99.findIndex((value) => value !== null);
    const first = Math.max(0, Math.min(known < 0 ? p99.length : known, p99.length - 30));
    let high = 1;
    for (let at = first; at < p99.length; at += 1) high = Math.max(high, p99[at] ?? 0);
    context.lineWidth = 1.25 * devicePixelRatio;
    for (const name of ["p50", "p99"]) drawLine(context, row.backend[name], first, high, inks[name]);
  }

  function drawLine(context, values, first, high, ink) {
    const { width, height } = context.canvas;
    context.strokeStyle = ink;
    context.beginPath();
    let isDown = false;
    for (let at = first; at < values.length; at += 1) {
      const value = values[at];
      if (value === null) {
        isDown = false;
        continue;
      }
      const x = ((at - first) / Math.max(1, values.length - 1 - first)) * width;
      const y = height - 2 - (value / high) * (height - 5);
      if (isDown) context.lineTo(x, y);
      else context.moveTo(x, y);
      isDown = true;
    }
    context.stroke();
  }

  /** Sets the scale of the score bars: the highest score, but at most four times the median.
   * Otherwise one backend without a ping would make all others look equal. */
  function measure() {
    const totals = store.backends.filter(Boolean).map((backend) => store.figure(backend, "score") ?? 0).sort((a, b) => a - b);
    const median = totals[Math.floor(totals.length / 2)] ?? 0;
    scale = Math.max(1, Math.min(totals[totals.length - 1] ?? 1, 4 * median || Infinity));
  }

  function arrange() {
    const wanted = filter.value.trim().toLowerCase();
    const { figure, sign } = order;
    const value = (row) => (figure === "name" ? row.backend.name : store.figure(row.backend, figure));
    const sorted = [...rows];
    if (figure) {
      sorted.sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * (typeof a === "string" ? a.localeCompare(b) : a - b) || one.backend.place - other.backend.place;
      });
    }
    const shown = sorted.filter((row) => row.backend.name.toLowerCase().includes(wanted));
    const isSame = shown.length === body.children.length && shown.every((row, at) => body.children[at] === row.line);
    if (!isSame) body.replaceChildren(...shown.map((row) => row.line));
  }

  function rebuild() {
    watcher.disconnect();
    seen = new Set();
    rows = store.backends.map(makeRow);
    document.getElementById("filter").hidden = rows.length <= 12;
    document.getElementById("empty").hidden = rows.length > 0;
    body.replaceChildren();
    arrange();
    measure();
    rows.forEach(show);
  }

  function show(row) {
    draw(row);
    watcher.observe(row.line);
  }

  function drawUnseen() {
    for (let count = Math.min(unseenAtOnce, rows.length); count > 0; count -= 1) {
      turn = (turn + 1) % rows.length;
      if (!seen.has(rows[turn])) draw(rows[turn]);
    }
  }

  /** Adds the rows of backends whose parts have arrived before those of others. */
  function grow(arrived) {
    isGrowing &&= arrived[0]?.place === rows.length;
    if (!isGrowing) return;
    const added = arrived.map(makeRow);
    rows.push(...added);
    document.getElementById("filter").hidden = store.backends.length <= 12;
    document.getElementById("empty").hidden = true;
    measure();
    if (order.figure || filter.value) arrange();
    else body.append(...added.map((row) => row.line));
    added.forEach(show);
  }

  function complete() {
    if (!isGrowing) return rebuild();
    isGrowing = false;
    measure();
    seen.forEach(draw);
    if (order.figure) arrange();
  }

  makeHead();
  filter.addEventListener("input", arrange);
  store.on("hello", () => (isGrowing = rows.length === 0));
  store.on("part", grow);
  store.on("backends", complete);
  store.on("tick", () => {
    if (rows.length === 0) return;
    measure();
    inks = askForInks();
    seen.forEach(draw);
    drawUnseen();
    if (order.figure && order.figure !== "name") arrange();
  });
  addEventListener("beforeprint", () => rows.forEach(draw));

  return {
    /** Shows in each row the colour of its backend in the charts. */
    mark: (series) => {
      for (const row of rows) {
        const number = series.get(row.backend.place);
        if (number) row.key.dataset.series = number;
        else delete row.key.dataset.series;
        row.key.hidden = !number;
      }
    },
  };
})();
