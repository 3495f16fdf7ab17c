// One sample, whole: what was asked, and what one or two runs answered. All text is set as text, never as HTML.
"use strict";

smol.detail = (() => {
  const NAMES = ["A", "B"];
  const KNOWN = new Set(["logprobs", "n_tokens", "prediction", "output", "n_output_tokens", "finish",
    "judgments", "output_turn_2", "n_output_tokens_turn_2", "finish_turn_2"]);
  const ENDS = { eos: "ended its turn", stop: "met a stop string", length: "ran out of budget" };

  function el(tag, options = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "class") node.className = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // Text in which the searched words are marked.
  function marked(text, words) {
    const lower = text.toLowerCase();
    if (!words.length || lower.length !== text.length) return [text];
    const parts = [];
    let from = 0;
    while (from < text.length) {
      let next = null;
      for (const word of words) {
        const at = lower.indexOf(word, from);
        if (at >= 0 && (!next || at < next.at)) next = { at, length: word.length };
      }
      if (!next) break;
      parts.push(text.slice(from, next.at), el("mark", {}, text.slice(next.at, next.at + next.length)));
      from = next.at + next.length;
    }
    return [...parts, text.slice(from)];
  }

  const block = (text, words, kind = "") => el("pre", { class: `text ${kind}`, dir: "auto" }, ...marked(text, words));
  const heading = (text) => el("h3", {}, text);
  const badge = (side) => el("span", { class: `side side-${NAMES[side].toLowerCase()}` }, NAMES[side]);

  function verdict(score, set) {
    if (score === null) return el("span", { class: "verdict none" }, "no score");
    if (score === set.right) return el("span", { class: "verdict right" }, "✓ right");
    if (score === set.wrong) return el("span", { class: "verdict wrong" }, "✗ wrong");
    return el("span", { class: "verdict" }, `scored ${Number(minus(score.toFixed(3)))}`);
  }

  // A prompt with worked examples: the examples are folded, the question itself is open.
  function prompt(doc, words) {
    const { prompt: text, begin, set } = doc;
    if (!set.shots || !begin) return [heading("Prompt"), block(text, words)];
    const summary = el("summary", {}, `${set.shots} worked examples before it`);
    return [heading("Prompt"), el("details", {}, summary, block(text.slice(0, begin), words)), block(text.slice(begin), words)];
  }

  // The normalised score of a choice: log p over its characters, a leading space not counted.
  function perCharacter(choice, logprob) {
    const length = [...choice].length - (choice.startsWith(" ") ? 1 : 0);
    return logprob === null || !length ? null : logprob / length;
  }

  function choices(doc, words) {
    const list = doc.asked.get("choices");
    const gold = doc.asked.get("gold");
    const sides = doc.runs.map((run, side) => [run, side]).filter(([run]) => run);
    const head = el("tr", {}, el("th", { scope: "col" }, "Choice"));
    for (const [, side] of sides) head.append(el("th", { scope: "col", class: "number" }, badge(side), " log p per character"));
    const rows = list.map((choice, at) => {
      const name = el("td", { class: "choice" }, el("span", { class: "text", dir: "auto" }, ...marked(choice.trim(), words)));
      if (at === gold) name.append(" ", el("span", { class: "tag gold" }, "correct"));
      const row = el("tr", at === gold ? { class: "gold" } : {}, name);
      for (const [run, side] of sides) row.append(scoreCell(choice, run, side, at));
      return row;
    });
    const table = el("table", { class: "choices" }, el("thead", {}, head), el("tbody", {}, ...rows));
    return [heading("Choices"), el("div", { class: "wide" }, table)];
  }

  const minus = (text) => text.replace("-", "\u2212");

  function scoreCell(choice, run, side, at) {
    const logprob = run.get("logprobs")[at];
    const score = perCharacter(choice, logprob);
    const cell = el("td", { class: "number" });
    if (run.get("prediction") === at) cell.append(el("span", { class: `tag pick-${NAMES[side].toLowerCase()}` }, `${NAMES[side]}’s pick`), " ");
    cell.append(score === null ? "–" : minus(score.toFixed(3)));
    const tokens = run.get("n_tokens")[at];
    const sum = logprob === null ? "–" : minus(logprob.toFixed(2));
    cell.append(el("span", { class: "under" }, `${sum} nats, ${tokens} ${tokens === 1 ? "token" : "tokens"}`));
    return cell;
  }

  function answer(run, side, suffix, words) {
    const tokens = run.get(`n_output_tokens${suffix}`);
    const finish = run.get(`finish${suffix}`);
    const facts = [tokens === undefined ? null : `${tokens} tokens`, ENDS[finish] ?? finish].filter(Boolean).join(", ");
    const text = run.get(`output${suffix}`) ?? "";
    return el("section", { class: "answer" }, el("h4", {}, badge(side), el("span", { class: "under" }, facts)),
      text.trim() ? block(text, words) : el("p", { class: "muted" }, "(nothing but white space)"),
      ...judged(run, suffix ? Number(suffix.slice(6)) : 1));
  }

  // What judges wrote about a turn, folded under their ratings.
  function judged(run, turn) {
    const mine = (run.get("judgments") ?? []).filter(([of]) => of === turn);
    return mine.map(([, judge, prompts, rating, text]) => el("details", {},
      el("summary", {}, `${rating === null ? "no rating" : `rated ${rating}`} by ${judge}, prompts ${prompts}`), block(text, [])));
  }

  const answers = (doc, suffix, words) =>
    el("div", { class: "answers" }, ...doc.runs.map((run, side) => run && answer(run, side, suffix, words)).filter(Boolean));

  function written(doc, words) {
    const turns = doc.asked.get("turns");
    if (turns) return turns.flatMap((turn, at) => [heading(`Turn ${at + 1}`), block(turn, words), answers(doc, at ? `_turn_${at + 1}` : "", words)]);
    const gold = [doc.asked.get("gold") ?? []].flat();
    const parts = [heading(doc.runs[1] ? "Answers" : "Answer"), answers(doc, "", words)];
    if (!gold.length) return parts;
    return [heading(gold.length > 1 ? "Any of these is right" : "Right answer"), block(gold.join("\n"), words, "gold"), ...parts];
  }

  const shown = (value) => (Array.isArray(value) ? value.map(shown).join(" ") : value === null ? "–" : String(value));

  function metrics(doc) {
    const names = [...(doc.runs[0] ?? doc.runs[1]).keys()].filter((name) => !KNOWN.has(name));
    if (!names.length) return [];
    const sides = doc.runs.map((run, side) => [run, side]).filter(([run]) => run);
    const head = el("tr", {}, el("th", { scope: "col" }, "Metric"), ...sides.map(([, side]) => el("th", { scope: "col", class: "number" }, badge(side))));
    // A metric of items (instructions) has a line for each, with its name.
    const items = doc.asked.get("item_names");
    const line = (name, pick) => el("tr", {}, el("td", {}, el("code", {}, name)),
      ...sides.map(([run]) => el("td", { class: "number" }, shown(pick(run) ?? null))));
    const named = (value) => items && Array.isArray(value) && value.length === items.length;
    const rows = names.flatMap((name) => named(sides[0][0].get(name))
      ? items.map((item, at) => line(`${name} · ${item}`, (run) => run.get(name)[at]))
      : [line(name, (run) => run.get(name))]);
    return [heading("Scores"), el("div", { class: "wide" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)))];
  }

  // The nodes that show a doc; words: what was searched for.
  function nodes(doc, scores, set, words) {
    const states = el("p", { class: "states" });
    doc.runs.forEach((run, side) => run && states.append(el("span", {}, badge(side), " ", verdict(scores[side], set))));
    const asked = doc.asked.get("turns") ? [] : prompt(doc, words);
    return [states, ...asked, ...(doc.asked.has("choices") ? choices(doc, words) : written(doc, words)), ...metrics(doc)];
  }

  return { nodes, el };
})();
