// Loads data/KEY.js, each of which calls smol.put(KEY, value). Scripts, because a page opened from file:// may not fetch.
"use strict";

var smol = (() => {
  const KEEP = 240; // chunks in memory, each about 250,000 characters
  const cache = new Map(); // in order of use
  const waiting = new Map();

  const arriving = new Set(); // packed values that are being unpacked

  // A value as base64 of its deflated JSON.
  async function pack(key, text) {
    arriving.add(key);
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    put(key, await new Response(stream).json());
    arriving.delete(key);
  }

  function put(key, value) {
    cache.delete(key);
    cache.set(key, value);
    for (const oldest of cache.keys()) {
      if (cache.size <= KEEP) break;
      cache.delete(oldest);
    }
    waiting.get(key)?.resolve(value);
    waiting.delete(key);
  }

  // The value if it is in memory, else undefined.
  function peek(key) {
    const value = cache.get(key);
    if (value !== undefined) {
      cache.delete(key);
      cache.set(key, value);
    }
    return value;
  }

  function load(key) {
    const value = peek(key);
    if (value !== undefined) return Promise.resolve(value);
    const begun = waiting.get(key);
    if (begun) return begun.promise;
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    waiting.set(key, entry);
    const script = document.createElement("script");
    const end = () => {
      script.remove();
      if (!arriving.has(key) && waiting.delete(key)) entry.reject(new Error(`data/${key}.js cannot be read`));
    };
    script.onload = end;
    script.onerror = end;
    script.src = `data/${key}.js`;
    document.head.append(script);
    return entry.promise;
  }

  return { put, pack, peek, load };
})();
