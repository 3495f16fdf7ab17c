// What a selection shows: the docs of one or more tasks, numbered through, with the answers of one or two runs.
"use strict";

smol.View = class {
  // index: data/index.js; sets: its entries to show; a, b: numbers of runs (b may be null).
  static async open(index, sets, a, b) {
    const view = new smol.View();
    view.sections = [];
    view.count = 0;
    for (const set of sets) {
      const size = (run) => set.runs.find(([number]) => number === run)?.[1] ?? 0;
      const section = { set, a, b: b !== null && size(b) ? b : null, n: size(a), offset: view.count };
      if (!section.n) continue;
      section.chunks = set.starts
        .map((start, number) => ({ section, number, start, end: set.starts[number + 1] ?? set.n }))
        .filter((chunk) => chunk.start < section.n)
        .map((chunk) => ({
          ...chunk,
          start: section.offset + chunk.start,
          end: section.offset + Math.min(chunk.end, section.n),
          inB: section.b !== null && chunk.start < size(b),
        }));
      view.sections.push(section);
      view.count += section.n;
    }
    await Promise.all(
      view.sections.map(async (section) => {
        const scores = (run) => smol.load(`${section.set.name}/scores-${run}`);
        section.scoresA = await scores(section.a);
        section.scoresB = section.b === null ? [] : await scores(section.b);
        section.groups = section.set.groups.length ? await smol.load(`${section.set.name}/groups`) : null;
      }),
    );
    return view;
  }

  // The last of the ascending items whose start is at most doc.
  static last(items, doc, start) {
    let low = 0;
    let high = items.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (start(items[middle]) <= doc) low = middle;
      else high = middle - 1;
    }
    return items[low];
  }

  sectionOf(doc) {
    return smol.View.last(this.sections, doc, (section) => section.offset);
  }

  chunkOf(doc) {
    return smol.View.last(this.sectionOf(doc).chunks, doc, (chunk) => chunk.start);
  }

  // Scores of a doc by A and B: numbers, or null where there is none.
  scores(doc) {
    const section = this.sectionOf(doc);
    const at = doc - section.offset;
    const one = (scores) => (scores[at] === undefined || scores[at] === null ? null : Number(scores[at]));
    return [one(section.scoresA), one(section.scoresB)];
  }

  // The docs that `test(scoreA, scoreB, set)` accepts, ascending; those of one group, where one is named.
  filter(test, group = "") {
    const rows = new Uint32Array(this.count);
    let kept = 0;
    for (let doc = 0; doc < this.count; doc++) {
      const section = this.sectionOf(doc);
      const here = !group || (section.groups && section.set.groups[section.groups[doc - section.offset]] === group);
      if (here && test(...this.scores(doc), section.set)) rows[kept++] = doc;
    }
    return rows.subarray(0, kept);
  }

  keys(chunk) {
    const { set, a, b } = chunk.section;
    const keys = [`${set.name}/docs-${chunk.number}`, `${set.name}/run-${a}-${chunk.number}`];
    return chunk.inB ? [...keys, `${set.name}/run-${b}-${chunk.number}`] : keys;
  }

  read(chunk) {
    return Promise.all(this.keys(chunk).map((key) => smol.load(key)));
  }

  // A function from a doc of the chunk to all its text in lower case.
  async texts(chunk) {
    const [docs, ...runs] = await this.read(chunk);
    const prompts = smol.View.prompts(docs);
    const texts = ["group", "choices", "gold", "turns"].map((name) => smol.View.column(docs.columns, name));
    for (const run of runs) texts.push(...["output", "output_turn_2"].map((name) => smol.View.column(run, name)));
    const parts = texts.filter((values) => values !== undefined);
    const first = this.firstOf(chunk);
    return (doc) => [prompts[doc - first], ...parts.map((values) => values[doc - first])].flat().join("\n").toLowerCase();
  }

  firstOf(chunk) {
    return chunk.section.offset + chunk.section.set.starts[chunk.number];
  }

  // Everything about a doc, if its chunk is in memory; else null.
  peek(doc) {
    const chunk = this.chunkOf(doc);
    const parts = this.keys(chunk).map((key) => smol.peek(key));
    if (parts.some((part) => part === undefined)) return null;
    const [docs, a, b] = parts;
    const at = doc - this.firstOf(chunk);
    const pick = (columns) => new Map(columns.map(([name, values]) => [name, values[at]]));
    const runs = [a, b].map((run) => (run && run[0]?.[1].length > at ? pick(run) : null));
    return { set: chunk.section.set, prompt: smol.View.prompts(docs)[at], begin: docs.begin[at], asked: pick(docs.columns), runs };
  }

  static column(columns, name) {
    return columns.find(([other]) => other === name)?.[1];
  }

  // Prompts of a chunk: each is stored without what it shares with the one before.
  static prompts(docs) {
    if (!docs.prompts) {
      let before = "";
      docs.prompts = docs.rest.map((rest, at) => (before = before.slice(0, docs.shared[at]) + rest));
    }
    return docs.prompts;
  }
};
