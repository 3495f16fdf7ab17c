// The sample browser's page: selections and filters on top, the list of docs, and the opened sample beside it.
"use strict";

smol.load("index").then((index) => {
  const { el } = smol.detail;
  const by = (id) => document.getElementById(id);
  const controls = { suite: by("suite"), a: by("run-a"), b: by("run-b"), task: by("task"), group: by("group"), show: by("show"), query: by("query") };
  const status = by("status");
  const pane = by("detail");
  const page = by("browser");

  // Tests of a doc's scores by A and B and of its set, which says what is right, what is wrong and which side is better.
  const is = (wanted, ...scores) => wanted !== null && scores.every((score) => score === wanted);
  const beats = (one, other, set) => one !== null && other !== null && (set.lower ? one < other : one > other);
  const FILTERS = [
    ["all", "All docs", () => true, false],
    ["right", "A right", (a, b, set) => is(set.right, a), false],
    ["wrong", "A wrong", (a, b, set) => is(set.wrong, a), false],
    ["differ", "A and B differ", (a, b) => a !== null && b !== null && a !== b, true],
    ["a", "A beats B", (a, b, set) => beats(a, b, set), true],
    ["b", "B beats A", (a, b, set) => beats(b, a, set), true],
    ["both", "Both right", (a, b, set) => is(set.right, a, b), true],
    ["neither", "Both wrong", (a, b, set) => is(set.wrong, a, b), true],
  ];

  let view = null;
  let opened = null; // position in the list of the sample that is open
  let selection = 0; // counts selections, and `turn` the lists made of them: what belongs to an earlier one is dropped
  let turn = 0;
  let words = [];

  const list = new smol.VirtualList(by("list"), { render, open, settle });

  // --- what can be chosen ---------------------------------------------------------------------------------------

  const setsOf = (run) => index.sets.filter((set) => set.runs.some(([number]) => number === run));
  const option = (value, text) => el("option", { value }, text);
  const count = (n) => n.toLocaleString("en");

  function fill(select, options, wanted) {
    select.replaceChildren(...options);
    const values = [...select.options].map((item) => item.value);
    select.value = values.includes(wanted) ? wanted : (values[0] ?? "");
  }

  function fillRuns(wantedA, wantedB) {
    const runs = index.runs.map((run, number) => [run, number]).filter(([run]) => run.suite === controls.suite.value);
    fill(controls.a, runs.map(([run]) => option(run.key, run.title)), wantedA);
    fillOther(wantedB);
  }

  // B: the runs that answered some of the docs that A answered.
  function fillOther(wanted) {
    const a = number(controls.a);
    const shared = new Set(setsOf(a).flatMap((set) => set.runs.map(([run]) => run)));
    shared.delete(a);
    const runs = [...shared].sort((x, y) => x - y);
    fill(controls.b, [option("", "none"), ...runs.map((run) => option(index.runs[run].key, index.runs[run].title))], wanted);
  }

  function fillTasks(wanted) {
    const a = number(controls.a);
    const size = (sets) => sets.reduce((sum, set) => sum + set.runs.find(([run]) => run === a)[1], 0);
    const sets = setsOf(a);
    const options = [option("", `All tasks (${count(size(sets))})`)];
    for (const row of new Set(sets.map((set) => set.row))) {
      const group = sets.filter((set) => set.row === row);
      if (group.length > 1) options.push(option(`row:${row}`, `${row}: all (${count(size(group))})`));
      for (const set of group) options.push(option(`task:${set.task}`, `${group.length > 1 ? "– " : ""}${set.task} (${count(size([set]))})`));
    }
    fill(controls.task, options, wanted);
  }

  // Groups of the docs (subjects, categories) where a single task with several is chosen.
  function fillGroups(wanted) {
    const sets = chosenSets();
    const groups = sets.length === 1 ? sets[0].groups : [];
    controls.group.closest("label").hidden = !groups.length;
    fill(controls.group, [option("", `All (${groups.length})`), ...groups.map((group) => option(group, group))], wanted);
  }

  const number = (select) => index.runs.findIndex((run) => run.key === select.value);

  function chosenSets() {
    const task = controls.task.value;
    return setsOf(number(controls.a)).filter((set) => !task || task === `task:${set.task}` || task === `row:${set.row}`);
  }

  function fillFilters(wanted) {
    const two = view.sections.some((section) => section.b !== null);
    const tests = FILTERS.filter(([, , , needsTwo]) => two || !needsTwo);
    fill(controls.show, tests.map(([value, text, test]) => option(value, `${text} (${count(view.filter(test, controls.group.value).length)})`)), wanted);
  }

  // --- from a selection to the list -----------------------------------------------------------------------------

  async function select(wanted = {}) {
    const mine = ++selection;
    turn++;
    close(false);
    status.textContent = "Reading scores…";
    const b = controls.b.value ? number(controls.b) : null;
    fillGroups(wanted.group ?? "");
    const next = await smol.View.open(index, chosenSets(), number(controls.a), b);
    if (mine !== selection) return;
    view = next;
    page.classList.toggle("two", view.sections.some((section) => section.b !== null));
    fillFilters(wanted.show ?? controls.show.value);
    for (const [id, run] of [["link-a", controls.a], ["link-b", controls.b]]) {
      const link = by(id);
      link.hidden = !run.value;
      if (run.value) link.href = index.runs[number(run)].page;
    }
    await narrow();
    if (mine !== selection) return;
    if (wanted.doc !== undefined) openDoc(wanted.doc);
  }

  async function narrow() {
    if (!view) return;
    const mine = ++turn;
    const test = FILTERS.find(([value]) => value === controls.show.value)[2];
    const rows = view.filter(test, controls.group.value);
    const query = controls.query.value.trim();
    words = smol.search.terms(query);
    page.removeAttribute("aria-busy");
    remember();
    if (!words.length) {
      list.set(rows, rows.length);
      status.textContent = `${count(rows.length)} of ${count(view.count)} docs`;
      return;
    }
    list.set([], 0);
    page.setAttribute("aria-busy", "true");
    let said = 0;
    await smol.search.run(view, rows, query, () => mine === turn, (hits, found, searched) => {
      list.set(hits, found, { keep: true });
      if (searched < rows.length && performance.now() - said < 250) return; // four words a second are enough
      said = performance.now();
      const part = searched < rows.length ? ` · searched ${count(searched)} of ${count(rows.length)}…` : "";
      status.textContent = `${count(found)} of ${count(view.count)} docs${part}`;
      if (!part) page.removeAttribute("aria-busy");
    });
  }

  // --- the list's rows ------------------------------------------------------------------------------------------

  // The question itself: what stands after worked examples and introductions.
  function snippet(doc) {
    return doc.prompt.slice(doc.begin).slice(0, 300).replace(/\n(Answer|A): ?$/, "").replace(/\s+/g, " ").trim();
  }

  function mark(node, score, side, set) {
    const kind = score === null ? "none" : is(set.right, score) ? "right" : is(set.wrong, score) ? "wrong" : "";
    node.className = `mark ${kind}`;
    node.textContent = score === null ? "" : kind === "right" ? "✓" : kind === "wrong" ? "✗" : String(Number(score.toFixed(2)));
    node.title = score === null ? "" : `${side}: ${kind || "scored"}`;
  }

  function render(node, doc) {
    if (!node.firstChild) {
      node.append(el("span", { class: "snippet", dir: "auto" }), el("span", { class: "where" }), el("span"), el("span"));
    }
    const [text, where, a, b] = node.children;
    const set = view.sectionOf(doc).set;
    const known = view.peek(doc);
    text.textContent = known ? snippet(known) : "…";
    where.textContent = [set.task, known ? `doc ${known.asked.get("doc_id")}` : "", known?.asked.get("group") ?? ""].filter(Boolean).join(" · ");
    const [scoreA, scoreB] = view.scores(doc);
    mark(a, scoreA, "A", set);
    mark(b, scoreB, "B", set);
  }

  function settle(first, last) {
    const mine = turn;
    const chunks = new Set();
    for (let position = first; position < last; position++) chunks.add(view.chunkOf(list.items[position]));
    for (const chunk of chunks) {
      if (view.keys(chunk).every((key) => smol.peek(key) !== undefined)) continue;
      view.read(chunk).then(() => mine === turn && list.refresh(), failed);
    }
  }

  // --- the opened sample ----------------------------------------------------------------------------------------

  // how: true: the reader opened it and goes there; "follow": the list moves, an open sample moves with it.
  async function open(position, how) {
    if (how === "follow" && opened === null) return;
    const doc = list.items[position];
    opened = position;
    const mine = turn;
    await view.read(view.chunkOf(doc)).catch(failed);
    const known = view.peek(doc);
    if (mine !== turn || opened !== position || !known) return;
    by("detail-title").textContent = `${known.set.task} · doc ${known.asked.get("doc_id")}`;
    by("detail-group").textContent = known.asked.get("group") ?? "";
    by("detail-body").replaceChildren(...smol.detail.nodes(known, view.scores(doc), known.set, words));
    by("detail-body").scrollTop = 0;
    by("previous").disabled = position === 0;
    by("next").disabled = position === list.count - 1;
    pane.hidden = false;
    page.classList.add("open");
    remember(known);
    if (how === true) by("detail-title").focus({ preventScroll: true });
  }

  function close(back = true) {
    opened = null;
    pane.hidden = true;
    page.classList.remove("open");
    if (back) {
      remember();
      by("list").focus({ preventScroll: true });
    }
  }

  // Opens the doc that an address names: TASK:DOC_ID.
  async function openDoc(name) {
    const mine = turn;
    for (const section of view.sections.filter((item) => name.startsWith(`${item.set.task}:`))) {
      for (const chunk of section.chunks) {
        const [docs] = await view.read(chunk);
        const at = smol.View.column(docs.columns, "doc_id").findIndex((id) => `${section.set.task}:${id}` === name);
        if (mine !== turn) return;
        if (at < 0) continue;
        const position = list.items.indexOf(view.firstOf(chunk) + at);
        if (position >= 0 && position < list.count) list.choose(position, true);
        return;
      }
    }
  }

  // --- the address keeps the selection --------------------------------------------------------------------------

  function remember(known) {
    const state = new URLSearchParams({ suite: controls.suite.value, a: controls.a.value });
    if (controls.b.value) state.set("b", controls.b.value);
    if (controls.task.value) state.set("task", controls.task.value);
    if (controls.group.value) state.set("group", controls.group.value);
    if (controls.show.value !== "all") state.set("show", controls.show.value);
    if (controls.query.value.trim()) state.set("q", controls.query.value.trim());
    if (known) state.set("doc", `${known.set.task}:${known.asked.get("doc_id")}`);
    history.replaceState(null, "", `#${state}`);
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    const get = (name) => state.get(name) ?? "";
    const first = index.runs.find((run) => run.key === get("a"))?.suite ?? get("suite");
    fill(controls.suite, index.suites.map(([suite, title]) => option(suite, title)), first);
    fillRuns(get("a"), get("b"));
    fillTasks(get("task"));
    controls.query.value = get("q");
    return select({ group: get("group"), show: get("show"), doc: state.get("doc") ?? undefined });
  }

  function failed(error) {
    status.textContent = `${error.message}: build the site again.`;
  }

  // --- events ---------------------------------------------------------------------------------------------------

  const changed = (then) => () => Promise.resolve(then()).catch(failed);
  controls.suite.addEventListener("change", changed(() => (fillRuns("", ""), fillTasks(""), select())));
  controls.a.addEventListener("change", changed(() => {
    fillOther(controls.b.value);
    fillTasks(controls.task.value);
    return select();
  }));
  for (const name of ["b", "task"]) controls[name].addEventListener("change", changed(() => select()));
  controls.group.addEventListener("change", changed(() => (close(false), fillFilters(controls.show.value), narrow())));
  controls.show.addEventListener("change", changed(() => (close(false), narrow())));

  let typing;
  controls.query.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(changed(() => (close(false), narrow())), 200);
  });

  by("swap").addEventListener("click", changed(() => {
    if (!controls.b.value) return undefined;
    const [a, b] = [controls.a.value, controls.b.value];
    controls.a.value = b;
    fillOther(a);
    fillTasks(controls.task.value);
    return select();
  }));
  by("previous").addEventListener("click", () => list.choose(opened - 1, "follow"));
  by("next").addEventListener("click", () => list.choose(opened + 1, "follow"));
  by("close").addEventListener("click", () => close());

  addEventListener("hashchange", changed(() => recall()));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !pane.hidden) close();
    else if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      controls.query.focus();
    }
  });

  return recall().then(() => page.removeAttribute("hidden"));
}).catch((error) => {
  document.getElementById("status").textContent = `The samples cannot be shown: ${error.message}`;
});
