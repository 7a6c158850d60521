"use strict";
// The data of the page: the backends with their rows and histories, the pool, the events. It
// arrives as server-sent events, which server/src/pages/live makes and describes. The other scripts
// read `store`, and register callbacks by `store.on(name, call)`.

const store = (() => {
  const calls = {};
  const on = (name, call) => (calls[name] ??= []).push(call);
  const tell = (name, value) => (calls[name] ?? []).forEach((call) => call(value));

  const own = {
    on,
    tell,
    /** "connecting", "live", "lost", or "replaced" (another page has taken the stream of this one).
     * */
    connection: "connecting",
    program: "",
    fields: {},
    states: [],
    /** The states in which a backend gets no requests. */
    unusable: [],
    pool: {},
    /** One object for each backend: name, url, row, columns of history, and a model or null. An
     * entry is null until its part of the stream has arrived. A call of "part" passes the entries
     * that have just arrived. A call of "backends" reports that all have arrived; "tick" and
     * "model" are called only after that. */
    backends: [],
    /** The times of the columns, in seconds since 1970. */
    times: [],
    events: [],
    eventsMax: 0,
    interval: 0,
    covered: 0,
    /** The proxy's time in ms, and its difference from the clock of this computer. */
    at: 0,
    offset: 0,
    figure: (backend, name) => backend.row[own.fields[name]] ?? null,
    state: (backend) => own.states[own.figure(backend, "state")] ?? "unknown",
    isUsable: (backend) => !own.unusable.includes(own.state(backend)),
    seconds: (at) => (at + own.offset) / 1000,
    /** Returns the backend's share of all requests per second, 0 to 1. */
    share: (backend) => (own.rps > 0 ? own.figure(backend, "rps") / own.rps : 0),
    rps: 0,
    /** The address of a decision, or of the list of decisions. */
    explainAddress: (number) => {
      const suffix = number === undefined ? "" : `=${encodeURIComponent(number)}`;
      if (isTraffic) return `${location.pathname}?explain${suffix}`;
      return "explain" + (number === undefined ? "" : `?request=${encodeURIComponent(number)}`);
    },
  };

  /** The rates whose history is kept. A point has their average since the last point. */
  const rates = ["rps", "errors", "refused"];
  /** All figures whose history is kept. A point has the last value of those that are not rates. */
  const columns = [...rates, "p50", "p99"];
  /** On the traffic port the page and its events have the same address. On the admin listener they
   * have two. */
  const isTraffic = location.pathname.endsWith("/stats");
  const address = isTraffic ? location.pathname : "events";
  /** Time without a tick after which the connection counts as lost, ms. Ticks arrive every second.
   * */
  const silenceMax = 4000;
  /** The shortest and the longest time before the next attempt to connect, ms. It is doubled after
   * each attempt. */
  const waitMin = 500;
  const waitMax = 4000;
  /** The longest interval of the history for which each tick adds a point, s. */
  const fineInterval = 2;
  /** Time after which a replaced page connects again by itself, ms. It is long, so that two pages
   * do not keep replacing each other. */
  const replacedWait = 60_000;
  let source = null;
  /** The time from which a replaced page connects again, as soon as it is visible. */
  let returnsAt = 0;
  let heardAt = 0;
  let wait = waitMin;
  let ticks = 0;
  /** The number of backends whose part has not arrived yet. */
  let missing = 0;

  function setConnection(state) {
    if (own.connection !== state) {
      own.connection = state;
      tell("connection", state);
    }
  }

  function connect() {
    source = new EventSource(address);
    const listen = (name, take) =>
      source.addEventListener(name, (event) => {
        heardAt = performance.now();
        wait = waitMin;
        take(JSON.parse(event.data));
        setConnection("live");
      });
    heardAt = performance.now();
    listen("hello", takeHello);
    listen("backends", takeBackends);
    listen("tick", takeTick);
    listen("model", takeModel);
    source.addEventListener("replaced", giveWay);
    source.addEventListener("error", reconnect);
  }

  function giveWay() {
    source.close();
    source = null;
    returnsAt = performance.now() + replacedWait;
    setConnection("replaced");
  }

  /** Connects again after another page has replaced this one. */
  function takeBack() {
    if (own.connection !== "replaced") return;
    setConnection("connecting");
    connect();
  }

  function reconnect() {
    source?.close();
    source = null;
    setConnection("lost");
    setTimeout(connect, wait);
    wait = Math.min(wait * 2, waitMax);
  }

  setInterval(() => {
    if (source && performance.now() - heardAt > silenceMax) reconnect();
    if (!document.hidden && performance.now() >= returnsAt) takeBack();
  }, 1000);

  function takeHello(hello) {
    own.program = hello.program;
    own.fields = Object.fromEntries(hello.fields.map((name, place) => [name, place]));
    own.states = hello.states;
    own.unusable = hello.unusable;
    own.eventsMax = hello.eventsMax;
    own.interval = hello.interval;
    own.covered = hello.covered;
    setTime(hello.at);
    own.pool = hello.pool;
    own.events = hello.events;
    own.backends = Array.from({ length: hello.count }, () => null);
    missing = hello.count;
    const count = hello.covered / hello.interval;
    const end = own.seconds(hello.at);
    own.times = Array.from({ length: count }, (_, place) => end - (count - 1 - place) * hello.interval);
    tell("hello");
  }

  function setTime(at) {
    own.at = at;
    own.offset = Date.now() - at;
  }

  function takeBackends({ first, backends }) {
    const arrived = backends.map((backend, place) => {
      const made = { place: first + place, name: backend.name, url: backend.url, row: backend.row, model: null };
      forgetSums(made);
      const { interval, covered, times } = own;
      const length = covered / interval;
      for (const name of columns) {
        const known = backend.history[name].slice(-length);
        const before = Array(length - known.length).fill(null);
        // For ticks that arrived before this backend's part, only the current figures are known.
        const since = Array(Math.max(0, times.length - length)).fill(backend.row[own.fields[name]]);
        made[name] = [...before, ...known, ...since].slice(-times.length);
      }
      if (!own.backends[first + place]) missing -= 1;
      own.backends[first + place] = made;
      return made;
    });
    sumUp();
    tell("part", arrived);
    if (missing === 0) tell("backends");
  }

  function takeTick(tick) {
    setTime(tick.at);
    own.pool = tick.pool;
    for (const [place, ...changes] of tick.rows) {
      const backend = own.backends[place];
      if (!backend) continue;
      for (let at = 0; at < changes.length; at += 2) backend.row[changes[at]] = changes[at + 1];
    }
    ticks += 1;
    for (const backend of own.backends.filter(Boolean)) {
      backend.summed += 1;
      for (const name of rates) backend.sums[name] += own.figure(backend, name) ?? 0;
    }
    // A large pool keeps fewer points: new points are as far apart as those of its history.
    if (own.interval <= fineInterval || ticks % own.interval === 0) addPoint(own.seconds(tick.at));
    const last = own.events.at(-1)?.[0] ?? 0;
    const news = tick.events.filter(([number]) => number > last);
    own.events.push(...news);
    own.events.splice(0, own.events.length - own.eventsMax);
    tell("events", news);
    if (missing > 0) return;
    sumUp();
    tell("tick");
  }

  function addPoint(time) {
    own.times.push(time);
    const known = own.backends.filter(Boolean);
    for (const backend of known) {
      const value = (name) => (rates.includes(name) ? backend.sums[name] / backend.summed : own.figure(backend, name));
      for (const name of columns) backend[name].push(value(name));
      forgetSums(backend);
    }
    let old = 0;
    while (own.times[old] < time - own.covered) old += 1;
    if (old > 0) {
      own.times.splice(0, old);
      for (const backend of known) for (const name of columns) backend[name].splice(0, old);
    }
  }

  /** Resets the sums for the next point. */
  function forgetSums(backend) {
    backend.sums = Object.fromEntries(rates.map((name) => [name, 0]));
    backend.summed = 0;
  }

  function sumUp() {
    own.rps = own.backends.filter(Boolean).reduce((sum, backend) => sum + own.figure(backend, "rps"), 0);
  }

  function takeModel({ curves }) {
    curves.forEach((curve, place) => {
      if (own.backends[place]) own.backends[place].model = curve;
    });
    if (missing === 0) tell("model");
  }

  own.connect = connect;
  own.takeBack = takeBack;
  return own;
})();
