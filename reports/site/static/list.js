// A list of any length that keeps only the visible rows in the page. Rows have one height (the CSS variable --row).
"use strict";

smol.VirtualList = class {
  // box: the scrolling element; render(node, item, position): fills a row; open(position): the reader chose one.
  constructor(box, { render, open, settle }) {
    this.box = box;
    this.render = render;
    this.open = open;
    this.settle = settle;
    this.items = [];
    this.count = 0;
    this.active = 0;
    this.nodes = new Map(); // position -> row
    this.spare = [];
    this.space = document.createElement("div");
    this.space.className = "space";
    this.space.setAttribute("role", "presentation");
    box.append(this.space);
    this.height = parseFloat(getComputedStyle(box).getPropertyValue("--row"));
    box.addEventListener("scroll", () => this.schedule(), { passive: true });
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) this.choose(Number(row.dataset.position), true);
    });
    new ResizeObserver(() => this.schedule()).observe(box);
  }

  // items: an array (or typed array) of which the first `count` are in the list.
  set(items, count, { keep = false } = {}) {
    this.items = items;
    this.count = count;
    if (!keep) {
      this.active = 0;
      this.box.scrollTop = 0;
      this.clear();
    }
    this.space.style.height = `${count * this.height}px`;
    this.schedule();
  }

  clear() {
    for (const node of this.nodes.values()) this.retire(node);
    this.nodes.clear();
  }

  refresh() {
    for (const [position, node] of this.nodes) this.fill(node, position);
  }

  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.height) - 4);
    const last = Math.min(this.count, Math.ceil((this.box.scrollTop + this.box.clientHeight) / this.height) + 4);
    for (const [position, node] of this.nodes) {
      if (position < first || position >= last) {
        this.retire(node);
        this.nodes.delete(position);
      }
    }
    for (let position = first; position < last; position++) {
      if (!this.nodes.has(position)) this.place(position);
    }
    this.point();
    clearTimeout(this.timer); // a fast scroll passes over thousands of rows: read data only for those it stops at
    this.timer = setTimeout(() => this.settle(first, last), 40);
  }

  place(position) {
    const node = this.spare.pop() ?? this.create();
    node.hidden = false;
    node.dataset.position = position;
    node.style.transform = `translateY(${position * this.height}px)`;
    node.setAttribute("aria-posinset", position + 1);
    this.fill(node, position);
    this.nodes.set(position, node);
  }

  fill(node, position) {
    node.setAttribute("aria-setsize", this.count);
    this.render(node, this.items[position], position);
  }

  create() {
    const node = document.createElement("div");
    node.setAttribute("role", "option");
    node.id = `row-${(this.made = (this.made ?? 0) + 1)}`;
    this.space.append(node);
    return node;
  }

  retire(node) {
    node.hidden = true;
    node.removeAttribute("aria-selected");
    this.spare.push(node);
  }

  // Shows which row is the active one.
  point() {
    for (const [position, node] of this.nodes) node.setAttribute("aria-selected", position === this.active);
    const node = this.nodes.get(this.active);
    if (node) this.box.setAttribute("aria-activedescendant", node.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  choose(position, open) {
    if (!this.count) return;
    this.active = Math.max(0, Math.min(this.count - 1, position));
    const top = this.active * this.height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    const over = top + this.height - this.box.clientHeight;
    if (over > this.box.scrollTop) this.box.scrollTop = over;
    this.draw();
    if (open) this.open(this.active, open);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page };
    if (event.key in steps) this.choose(this.active + steps[event.key], "follow");
    else if (event.key === "Home") this.choose(0, "follow");
    else if (event.key === "End") this.choose(this.count - 1, "follow");
    else if (event.key === "Enter" || event.key === " ") this.choose(this.active, true);
    else return;
    event.preventDefault();
  }
};
