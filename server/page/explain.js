"use strict";
// Explains decisions: lists the last ones of a backend, and shows one in full, with its candidates
// and the changes that would have led to another backend. The proxy keeps the last 256 decisions
// while it has an admin listener.

const explain = (() => {
  const { element } = look;
  const dialog = document.getElementById("explain");
  const title = document.getElementById("explain-title");
  const body = document.getElementById("explain-body");
  const hint = element("p", "small muted hint", "The table is wider than this window: it scrolls sideways. →");
  document.getElementById("explain-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  async function fetchJson(address) {
    const response = await fetch(address, { headers: { Accept: "application/json" }, cache: "no-store" });
    if (!response.ok) throw new Error((await response.text()).slice(0, 200));
    return response.json();
  }

  async function open(name) {
    title.textContent = `Why ${name}?`;
    body.replaceChildren(element("p", "muted", "Asking the proxy…"));
    if (!dialog.open) dialog.showModal();
    if (!store.pool.explains) {
      body.replaceChildren(
        element("p", "", "The proxy keeps its last decisions only while it has an admin listener: start it with --admin HOST:PORT."),
      );
      return;
    }
    try {
      const { decisions } = await fetchJson(store.explainAddress());
      const own = decisions.filter((one) => one.backend === name);
      if (own.length === 0) {
        body.replaceChildren(element("p", "", `None of the last ${decisions.length} requests went to ${name}.`));
        if (decisions.length > 0) body.append(element("h3", "", "Where they went"), listOf(decisions));
        return;
      }
      await show(own[0], own);
    } catch (error) {
      fail(error);
    }
  }

  function fail(error) {
    body.replaceChildren(element("p", "bad", `No answer: ${error.message}`));
  }

  function listOf(decisions) {
    const list = element("ul", "decisions");
    for (const one of decisions.slice(0, 12)) {
      const button = element("button");
      button.type = "button";
      button.append(element("span", "number", `${look.millis(one.agoMs)} ago`), element("span", "", one.why));
      button.addEventListener("click", () => show(one, decisions).catch(fail));
      const item = element("li");
      item.append(button);
      list.append(item);
    }
    return list;
  }

  async function show(one, others) {
    const full = await fetchJson(store.explainAddress(one.request));
    const parts = [element("p", "why", full.why)];
    if (full.candidates.length > 0) parts.push(element("h3", "", "Candidates before the decision"), hint, tableOf(full));
    if (full.wouldChange.length > 0) {
      const list = element("ul");
      full.wouldChange.forEach((text) => list.append(element("li", "", text)));
      parts.push(element("h3", "", "What would have led elsewhere"), list);
    }
    if (full.tried.length > 0) parts.push(element("p", "small", `Tried before: ${full.tried.join(", ")}`));
    parts.push(element("h3", "", "Other decisions"), listOf(others.filter((other) => other !== one)));
    body.replaceChildren(...parts);
    showHint();
  }

  /** Shows the hint to scroll if the table of candidates is wider than the dialog. */
  function showHint() {
    const holder = body.querySelector(".scroll");
    hint.hidden = !holder || holder.scrollWidth <= holder.clientWidth;
  }
  addEventListener("resize", showHint);

  function tableOf(full) {
    const holder = element("div", "scroll");
    holder.tabIndex = 0;
    holder.setAttribute("role", "region");
    holder.setAttribute("aria-label", "Candidates before the decision");
    const made = element("table", "table");
    const head = element("tr");
    for (const name of ["Backend", "Health", "In flight", "Expected", "Score", "Parts of the score"]) {
      const cell = element("th", ["In flight", "Expected", "Score"].includes(name) ? "number" : "", name);
      cell.scope = "col";
      head.append(cell);
    }
    const top = element("thead");
    top.append(head);
    const rows = element("tbody");
    const most = Math.max(1, ...full.candidates.map((one) => one.score));
    for (const one of full.candidates) {
      const row = element("tr");
      const name = element("th", "", one.name === full.backend ? `${one.name} (chosen)` : one.name);
      name.scope = "row";
      const parts = element("td", "score");
      const stack = element("div", "stack");
      const words = [];
      for (const [factor, label] of look.factors) {
        const value = one.scoreParts[factor] ?? 0;
        const part = element("span");
        part.dataset.factor = factor;
        part.style.width = `${(100 * value) / most}%`;
        if (value > 0) {
          stack.append(part);
          words.push(`${label} ${look.number(value)}`);
        }
      }
      parts.append(stack, element("span", "small muted", words.join(", ")));
      row.append(
        name,
        element("td", "", one.health),
        element("td", "number", look.number(one.activeRequests)),
        element("td", "number", look.millis(one.policy.costMs)),
        element("td", "number", look.number(one.score)),
        parts,
      );
      rows.append(row);
    }
    made.append(top, rows);
    holder.append(made);
    return holder;
  }

  return { open };
})();
