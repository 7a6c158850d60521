"use strict";
// The header, the panel of the policy, and the start.

(() => {
  const { element } = look;
  const connection = document.getElementById("connection");
  const takeBack = document.getElementById("take-back");
  const policyTitle = document.getElementById("policy-title");
  const policyBody = document.getElementById("policy");
  const words = {
    score: "The backend with the fewest points keeps the requests until another one is better by more than the threshold.",
    learned: "Each request goes where its expected time is shortest, by a model learned from the responses.",
    least_request: "Each request goes to the backend with the fewest requests in flight.",
    p2c: "Each request goes to the less busy one of two random backends.",
    peak_ewma: "Each request goes where recent latency times requests in flight is lowest.",
    prequal: "Each request goes to a cold backend with the lowest latency among the last probes.",
    linear_rl: "Each request goes where a linear model, learned from rewards, expects most.",
    round_robin: "Requests go to the backends in turn.",
    random: "Requests go to a random backend.",
  };

  const sentences = {
    lost: "connection lost, trying again",
    replaced: "too many pages are open: another one took the place of this one",
  };

  /** The maximum number of backends whose models are drawn. */
  const modelsMax = 24;

  const count = (number, what) => `${look.number(number)} ${what}${number === 1 ? "" : "s"}`;

  function fact(list, name, value, tone) {
    let entry = list.querySelector(`[data-name="${name}"]`);
    if (!entry) {
      entry = element("div");
      entry.dataset.name = name;
      entry.append(element("dt", "", name), element("dd"));
      list.append(entry);
    }
    const shown = entry.lastChild;
    if (shown.textContent !== value) shown.textContent = value;
    if (tone) shown.dataset.tone = tone;
    else delete shown.dataset.tone;
  }

  function drawFacts() {
    const list = document.getElementById("facts");
    const { pool, backends } = store;
    const sum = (name) => backends.reduce((all, backend) => all + (store.figure(backend, name) ?? 0), 0);
    const usable = backends.filter(store.isUsable).length;
    const slowest = backends.reduce((most, backend) => Math.max(most, store.figure(backend, "p99") ?? -1), -1);
    fact(list, "policy", pool.policy ?? "–");
    fact(list, "usable", `${usable} of ${backends.length}`, usable < backends.length ? "bad" : "");
    fact(list, "requests/s", look.number(store.rps));
    fact(list, "highest p99", slowest < 0 ? "–" : look.millis(slowest));
    fact(list, "errors/s", look.number(sum("errors")), sum("errors") > 0 ? "bad" : "");
    fact(list, "refused/s", look.number(sum("refused")), sum("refused") > 0 ? "bad" : "");
    fact(list, "in flight", look.number(sum("inFlight")));
    fact(list, "waiting", look.number(pool.queue), pool.queue > 0 ? "bad" : "");
    fact(list, "clients", look.number(pool.clients));
    fact(list, "switches", look.number(pool.switches));
  }

  function drawConnection(state) {
    connection.dataset.state = state;
    document.body.dataset.connection = state;
    takeBack.hidden = state !== "replaced";
    connection.textContent = sentences[state] ?? state;
  }

  /** Returns a new SVG element with these attributes. */
  function node(name, facts, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(facts)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  /** Draws the ratio of costs with its interval on a line from 0.5 to 1.5; left of 1 is a gain. */
  function gainPicture({ ratio, interval }) {
    const place = (value) => 24 + 352 * (Math.min(1.5, Math.max(0.5, value)) - 0.5);
    const picture = node("svg", { viewBox: "0 0 400 54", role: "img", preserveAspectRatio: "xMinYMid meet" });
    picture.setAttribute("aria-label", `cost ratio ${ratio.toFixed(3)}, 95 % interval ${interval[0].toFixed(3)} to ${interval[1].toFixed(3)}`);
    const [low, high] = interval.map(place);
    picture.append(
      node("line", { x1: place(0.5), x2: place(1.5), y1: 22, y2: 22, stroke: "var(--line)", "stroke-width": 2 }),
      node("line", { x1: place(1), x2: place(1), y1: 8, y2: 36, stroke: "var(--muted)", "stroke-dasharray": "3 3" }),
      node("line", { x1: low, x2: high, y1: 22, y2: 22, stroke: "var(--accent)", "stroke-width": 6, "stroke-linecap": "round" }),
      node("circle", { cx: place(ratio), cy: 22, r: 5, fill: "var(--panel)", stroke: "var(--accent)", "stroke-width": 2.5 }),
    );
    // An arrow at an end shows that the interval continues beyond the line.
    if (interval[0] < 0.5) picture.append(node("path", { d: "M10 22l10 -7v14z", fill: "var(--accent)" }));
    if (interval[1] > 1.5) picture.append(node("path", { d: "M390 22l-10 -7v14z", fill: "var(--accent)" }));
    for (const value of [0.5, 0.75, 1, 1.25, 1.5]) {
      picture.append(node("text", { x: place(value), y: 50, "text-anchor": "middle" }, value === 1 ? "equal" : `×${value}`));
    }
    return picture;
  }

  function modelPicture(backend) {
    const picture = node("svg", { viewBox: "0 0 100 46", preserveAspectRatio: "none", role: "img" });
    const curve = backend.model;
    const high = Math.max(...curve.map(([, ms]) => ms));
    const low = Math.min(...curve.map(([, ms]) => ms));
    const most = Math.log(curve.at(-1)[0]);
    const x = (n) => 2 + 96 * (Math.log(n) / most);
    const y = (ms) => 43 - 40 * (Math.log(ms / low) / Math.max(0.7, Math.log(high / low)));
    const d = curve.map(([n, ms], at) => `${at ? "L" : "M"}${x(n).toFixed(1)} ${y(ms).toFixed(1)}`).join("");
    const width = store.figure(backend, "width");
    const line = node("line", { x1: x(width), x2: x(width), y1: 2, y2: 44 });
    picture.append(line, node("path", { d }));
    picture.setAttribute("aria-label", `predicted latency of ${backend.name}: ${look.millis(curve[0][1])} alone, ${look.millis(high)} with ${curve.at(-1)[0]} in flight`);
    return picture;
  }

  /** Describes the ends of a curve, because its axes are logarithmic and have no marks. */
  function rangeOf(curve) {
    const times = curve.map(([, ms]) => ms);
    const [low, high] = [Math.min(...times), Math.max(...times)].map(look.millis);
    return `1 to ${curve.at(-1)[0]} in flight: ${low === high ? low : `${low} to ${high}`}`;
  }

  function drawPolicy() {
    const { pool, backends } = store;
    const { guard } = pool;
    const inCharge = guard && !guard.inCharge ? "least_request" : pool.policy;
    policyTitle.textContent = `Policy: ${pool.policy ?? ""}`;
    const parts = [element("p", "small muted", words[inCharge] ?? "")];
    const facts = element("dl", "policy-facts");
    const add = (name, value) => facts.append(element("dt", "", name), element("dd", "", value));
    if (guard) {
      const back = guard.returnsInMs === null ? "" : `, learned again in ${look.millis(guard.returnsInMs)}`;
      add("in charge", guard.inCharge ? "the learner" : `least_request${back}`);
      add("compared", `${count(guard.controls, "request")} sent by least_request`);
      add("alarm", `${Math.round(100 * guard.alarm)} % of what demotes the learner, ${count(guard.demotions, "demotion")} so far`);
      if (guard.ratio !== null && guard.interval !== null) {
        const [gain, low, high] = [guard.ratio, ...guard.interval].map(
          (ratio) => `${Math.abs(100 * (1 - ratio)).toFixed(1)} % ${ratio <= 1 ? "less" : "more"}`,
        );
        add("measured gain", `${gain} cost than least_request (95 %: ${low} to ${high})`);
      } else add("measured gain", "too few control requests so far");
    } else {
      add("switches", look.number(pool.switches));
      add("holds", look.number(pool.holds));
      add("spilled over", `${count(pool.spills, "request")}, past a full current backend`);
    }
    add("sent again", `${count(pool.retries, "request")}, to another backend`);
    add("waited", `${count(pool.waited, "request")}, for a free place`);
    parts.push(facts);
    if (guard?.ratio && guard.interval) {
      const holder = element("div", "gain");
      holder.append(gainPicture(guard));
      parts.push(holder);
    }
    const modelled = backends.filter((backend) => backend?.model?.length > 1).slice(0, modelsMax);
    if (modelled.length > 0) {
      parts.push(element("h3", "", "Model: latency by requests in flight, and the width"));
      const models = element("div", "models");
      for (const backend of modelled) {
        const model = element("div", "model");
        const speed = store.figure(backend, "speed");
        const width = store.figure(backend, "width");
        model.append(
          element("b", "", backend.name),
          modelPicture(backend),
          element("span", "small muted", rangeOf(backend.model)),
          element("span", "small muted", `speed ${look.number(speed)}, width ${width}`),
        );
        models.append(model);
      }
      parts.push(models);
    }
    policyBody.replaceChildren(...parts);
  }

  let drawnPolicy = "";
  /** Returns whether text of the panel is selected. */
  function isSelected() {
    const selection = getSelection();
    return !selection.isCollapsed && policyBody.contains(selection.anchorNode);
  }

  /** Draws the panel again if its contents have changed and no text in it is selected. */
  function refreshPolicy(isForced) {
    const { guard, ...pool } = store.pool;
    const key = JSON.stringify([pool.policy, pool.switches, pool.holds, pool.spills, pool.retries, pool.waited, guard]);
    if ((!isForced && key === drawnPolicy) || isSelected()) return;
    drawPolicy();
    drawnPolicy = key;
  }

  store.on("connection", drawConnection);
  takeBack.addEventListener("click", () => {
    store.takeBack();
    // The button is about to be hidden, so the focus moves.
    document.getElementById("backends").focus();
  });
  store.on("hello", () => {
    document.getElementById("program").textContent = store.program.replace("IntelliProxy ", "");
    document.getElementById("empty").hidden = false;
    refreshPolicy(true);
  });
  store.on("backends", drawFacts);
  store.on("model", () => refreshPolicy(true));
  store.on("tick", () => {
    drawFacts();
    refreshPolicy(false);
  });
  store.connect();
})();
