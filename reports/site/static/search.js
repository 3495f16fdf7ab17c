// Text search through all docs of a selection: a chunk at a time, in pauses, results as they are found.
"use strict";

smol.search = (() => {
  const SLICE = 10; // milliseconds of work before the page gets its turn
  const AHEAD = 3; // chunks that are read before they are needed

  const pause = () => new Promise((resolve) => setTimeout(resolve, 0));

  // Words, all of which must occur; a phrase in double quotes is one word.
  function terms(query) {
    return [...query.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g)].map((match) => match[1] ?? match[2]);
  }

  // Cuts ascending doc numbers into runs of docs that lie in one chunk: [[chunk, from, to], ...].
  function* batches(view, rows) {
    let from = 0;
    while (from < rows.length) {
      const chunk = view.chunkOf(rows[from]);
      let to = from;
      while (to < rows.length && rows[to] < chunk.end) to++;
      yield [chunk, from, to];
      from = to;
    }
  }

  // rows: ascending doc numbers. found(rows, count, searched): called after each slice. Stops when live() is false.
  async function run(view, rows, query, live, found) {
    const words = terms(query);
    const hits = new Uint32Array(rows.length);
    const list = [...batches(view, rows)];
    let count = 0;
    let clock = performance.now();
    for (let at = 0; at < list.length; at++) {
      for (const [next] of list.slice(at + 1, at + 1 + AHEAD)) view.read(next).catch(() => {});
      const [chunk, from, to] = list[at];
      const text = await view.texts(chunk);
      if (!live()) return;
      for (let k = from; k < to; k++) {
        const doc = text(rows[k]);
        if (words.every((word) => doc.includes(word))) hits[count++] = rows[k];
        if (performance.now() - clock > SLICE) {
          found(hits, count, k + 1);
          await pause();
          if (!live()) return;
          clock = performance.now();
        }
      }
    }
    found(hits, count, rows.length);
  }

  return { run, terms };
})();
