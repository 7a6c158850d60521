"use strict";
// The time line: switches, holds, ejections, returns, reloads and commands, each with its reason
// and numbers, the newest first. Screen readers announce the important ones.

(() => {
  const { element } = look;
  const list = document.getElementById("events");
  const holds = document.getElementById("holds");
  const spoken = document.getElementById("spoken");
  const shapes = {
    switch: "⇄",
    hold: "‖",
    ejection: "✕",
    return: "↺",
    up: "▲",
    down: "▼",
    reload: "⟳",
    refusal: "!",
    command: "›",
    guard: "◆",
    warning: "!",
  };
  const loud = ["switch", "ejection", "return", "up", "down", "guard", "refusal"];

  function line([, at, kind, text]) {
    const item = element("li");
    const time = element("time", "", look.clock(store.seconds(at)));
    time.dateTime = new Date(at + store.offset).toISOString();
    const label = element("span", "kind");
    label.dataset.kind = kind;
    const shape = element("span", "", `${shapes[kind] ?? "·"} `);
    shape.setAttribute("aria-hidden", "true");
    label.append(shape, kind);
    item.append(time, label, element("span", "text", text));
    return item;
  }

  const isShown = ([, , kind]) => holds.checked || kind !== "hold";

  function rebuild() {
    list.replaceChildren(...store.events.filter(isShown).reverse().map(line));
    noteEmpty();
  }

  function noteEmpty() {
    document.getElementById("no-events").hidden = list.children.length > 0;
  }

  holds.addEventListener("change", rebuild);
  store.on("hello", rebuild);
  store.on("events", (events) => {
    if (events.length === 0) return;
    list.prepend(...events.filter(isShown).reverse().map(line));
    while (list.children.length > store.eventsMax) list.lastChild.remove();
    noteEmpty();
    const news = events.filter(([, , kind]) => loud.includes(kind)).map(([, , , text]) => text);
    if (news.length > 0) spoken.textContent = news.slice(-3).join(". ");
  });
})();
