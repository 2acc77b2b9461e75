"use strict";
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // Buttons that copy what stands before them; a page opened from disk may not have the clipboard's own interface.
  const copy = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch (error) { /* below */ }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  for (const button of all(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const done = await copy(button.parentElement.querySelector("code").textContent.trim());
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // A link to a layer opens it.
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target === null) return;
    if (target.hidden) { query.value = ""; filter(); }
    for (let one = target; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
    target.scrollIntoView({block: target.tagName === "TR" ? "center" : "start"});
  };
  addEventListener("hashchange", open);
  let closed = [];
  addEventListener("beforeprint", () => { closed = all("details:not([open])"); for (const one of closed) one.open = true; });
  addEventListener("afterprint", () => { for (const one of closed) one.open = false; });

  const table = document.getElementById("table");
  const form = document.getElementById("filter");
  const query = document.getElementById("query");
  const shown = document.getElementById("shown");
  let filter = () => {};
  if (table !== null) {
    const body = table.tBodies[0];
    const heads = all("th", table);
    const rows = [...body.rows];
    const column = (key) => heads.findIndex((head) => head.dataset.key === key);
    const number = (text) => {
      const word = text.trim();
      return word === "inf" ? Infinity : word === "" || word === "—" ? null : Number(word);
    };
    const facts = rows.map((row) => {
      const cells = [...row.cells].map((cell) => cell.textContent);
      return {
        row, cells, state: row.className, names: cells.slice(2, 4).map((name) => name.toLowerCase()),
        op: cells[4].toLowerCase(), err: number(cells[column("err")]), rel: number(cells[column("rel")]),
      };
    });

    // The terms of the terminal interface: words, is:, op:, name:, err and rel with a number; all of them must hold.
    const states = ["match", "noise", "diverged", "inherited", "unmatched", "not-comparable"];
    const glob = (pattern) => {
      const parts = /[*?]/.test(pattern) ? pattern : `*${pattern}*`;
      const source = parts.replace(/[.+^${}()|\\\[\]]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
      return new RegExp(`^${source}$`, "s");
    };
    const term = (word) => {
      let match = /^(err|rel)(<=|>=|<|>)(.*)$/i.exec(word);
      if (match) {
        const [, field, sign, text] = match;
        if (text === "" || /[eE+.-]$/.test(text)) return () => true;
        const bound = Number(text), key = field.toLowerCase();
        if (Number.isNaN(bound)) throw new Error(`${field}${sign} takes a number such as 1e-4`);
        return (one) => {
          const value = one[key];
          if (value === null) return false;
          return sign === ">" ? value > bound : sign === ">=" ? value >= bound : sign === "<" ? value < bound : value <= bound;
        };
      }
      match = /^(is|op|name):(.*)$/i.exec(word);
      if (match) {
        const field = match[1].toLowerCase(), wanted = match[2].toLowerCase();
        if (wanted === "") return () => true;
        if (field === "is") {
          const found = states.filter((state) => state.startsWith(wanted));
          if (found.length === 0) throw new Error(`is: takes ${states.join(", ")}`);
          return (one) => found.includes(one.state);
        }
        const pattern = glob(wanted);
        if (field === "op") return (one) => one.op.split(" ⇄ ").some((op) => pattern.test(op)) || pattern.test(one.op);
        return (one) => one.names.some((name) => pattern.test(name));
      }
      const wanted = word.toLowerCase();
      return (one) => [...one.names, one.op].some((text) => text.includes(wanted));
    };
    filter = () => {
      let tests;
      try {
        tests = query.value.replace(/(^|\s)(err|rel)\s*(<=|>=|<|>)\s*/gi, "$1$2$3").split(/\s+/).filter(Boolean).map(term);
        query.removeAttribute("aria-invalid");
      } catch (error) {
        query.setAttribute("aria-invalid", "true");
        shown.textContent = error.message;
        return;
      }
      let count = 0;
      for (const one of facts) {
        const fits = tests.every((test) => test(one));
        one.row.hidden = !fits;
        count += fits;
      }
      shown.textContent = `${count} of ${facts.length} rows`;
    };
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    query.addEventListener("input", filter);
    for (const button of all("[data-query]", form)) {
      button.addEventListener("click", () => { query.value = button.dataset.query; filter(); });
    }
    addEventListener("keydown", (event) => {
      if (event.key === "/" && document.activeElement !== query && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        query.focus();
      } else if (event.key === "Escape" && document.activeElement === query) {
        query.value = "";
        filter();
      }
    });

    // Sorting: verdicts by gravity, numbers by size, names by the alphabet; a third click restores the running order.
    const gravity = ["diverged", "not-comparable", "inherited", "noise", "match", "unmatched"];
    const key = (one, at) => {
      if (at === 0) return gravity.indexOf(one.state);
      return heads[at].classList.contains("n") ? number(one.cells[at]) : one.cells[at].toLowerCase();
    };
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    heads.forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const first = head.classList.contains("n") && at > 1 ? "descending" : "ascending";
        const second = first === "ascending" ? "descending" : "ascending";
        const next = now === null ? first : now === first ? second : null;
        for (const other of heads) other.removeAttribute("aria-sort");
        let order = facts;
        if (next !== null) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          const known = facts.filter((one) => key(one, at) !== null);
          const rest = facts.filter((one) => key(one, at) === null);
          order = [...known.sort((a, b) => sign * compare(key(a, at), key(b, at)) || facts.indexOf(a) - facts.indexOf(b)), ...rest];
        }
        body.append(...order.map((one) => one.row));
      });
    });
    filter();
  }
  if (location.hash) open();
})();
