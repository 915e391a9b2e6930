(() => {
  "use strict";
  const root = document.documentElement, player = document.getElementById("player");
  const one = (id) => document.getElementById(id), every = (what, where = document) => [...where.querySelectorAll(what)];
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // Colours: automatic, light, dark
  const theme = one("theme"), looks = ["automatic", "light", "dark"], signs = ["◐", "☀", "☾"];
  const look = () => Math.max(0, looks.indexOf(root.dataset.theme));
  const name = () => { theme.setAttribute("aria-label", `Colours: ${looks[look()]}`); theme.firstChild.textContent = signs[look()]; };
  theme.addEventListener("click", () => {
    const next = (look() + 1) % 3;
    if (next) root.dataset.theme = looks[next]; else delete root.dataset.theme;
    try { if (next) localStorage.setItem("theme", looks[next]); else localStorage.removeItem("theme"); } catch { /* no storage */ }
    name();
  });
  name();

  // Links to sounds become buttons, one row of them for each class, with one tab stop
  const classes = every(".class").map((box) => ({ box, row: box.querySelector(".row"), words: box.dataset.class, buttons: [] }));
  for (const each of classes) {
    each.row.setAttribute("role", "toolbar");
    each.row.setAttribute("aria-label", each.row.dataset.label);
    every("a.play", each.row).forEach((link, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = link.className;
      button.dataset.src = link.getAttribute("href");
      button.setAttribute("aria-label", link.getAttribute("aria-label"));
      button.setAttribute("aria-pressed", "false");
      button.tabIndex = place ? -1 : 0;
      button.append(...link.childNodes);
      link.replaceWith(button);
      each.buttons.push(button);
    });
  }

  // One player for all
  let now = null;
  const draw = () => {
    if (!now || !player.duration) return;
    now.style.setProperty("--at", Math.min(1, player.currentTime / player.duration).toFixed(3));
    if (!player.paused && !calm.matches) requestAnimationFrame(draw);
  };
  const rest = (button) => {
    button.setAttribute("aria-pressed", "false");
    button.classList.remove("begun");
    button.style.removeProperty("--at");
  };
  const fail = (button) => {
    if (button !== now) return;
    rest(button);
    button.classList.add("broken");
    one("failed").textContent = `${button.getAttribute("aria-label")} cannot be played: is ${button.dataset.src} there, and does this browser play Ogg Opus (Safari: from 18.4)?`;
    one("failed").hidden = false;
    now = null;
  };
  const play = (button) => {
    if (now && now !== button) rest(now);
    if (now !== button) {
      now = button;
      player.src = button.dataset.src;
    }
    button.classList.remove("broken");
    button.classList.add("begun");
    one("failed").hidden = true;
    player.play().catch((error) => { if (error.name !== "AbortError") fail(button); });
  };
  const toggle = (button) => { if (now === button && !player.paused) player.pause(); else play(button); };
  player.addEventListener("playing", () => { now?.setAttribute("aria-pressed", "true"); draw(); });
  player.addEventListener("pause", () => now?.setAttribute("aria-pressed", "false"));
  player.addEventListener("timeupdate", draw);
  player.addEventListener("ended", () => { if (now) rest(now); });
  player.addEventListener("error", () => { if (now) fail(now); });

  // Keys
  const go = (each, place) => {
    const button = each.buttons[Math.min(place, each.buttons.length - 1)];
    each.buttons.forEach((other) => { other.tabIndex = other === button ? 0 : -1; });
    button.focus();
  };
  const shown = () => classes.filter((each) => !each.box.hidden && each.buttons.length);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.play");
    if (!button) return;
    const each = classes.find((one) => one.buttons.includes(button));
    each.buttons.forEach((other) => { other.tabIndex = other === button ? 0 : -1; });
    toggle(button);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && now) { player.pause(); rest(now); now = null; }
    const button = event.target.closest?.("button.play");
    if (!button || event.ctrlKey || event.altKey || event.metaKey) return;
    const list = shown(), line = list.findIndex((each) => each.buttons.includes(button));
    const place = list[line].buttons.indexOf(button), last = list[line].buttons.length - 1;
    const moves = {
      ArrowRight: [line, place === last ? 0 : place + 1], ArrowLeft: [line, place ? place - 1 : last],
      Home: [line, 0], End: [line, last],
      ArrowDown: [Math.min(line + 1, list.length - 1), place], ArrowUp: [Math.max(line - 1, 0), place],
    };
    const to = moves[event.key];
    if (!to) return;
    event.preventDefault();
    go(list[to[0]], to[1]);
  });

  // Search
  const filter = one("filter"), plain = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  const search = () => {
    const wanted = plain(filter.value).split(/\s+/).filter(Boolean);
    for (const each of classes) each.box.hidden = !wanted.every((word) => plain(each.words).includes(word));
    const count = classes.filter((each) => !each.box.hidden).length;
    for (const world of every(".world")) world.hidden = !every(".class:not([hidden])", world).length;
    one("none").hidden = count > 0;
    one("found").textContent = `${count} of ${classes.length} classes`;
    if (now?.closest(".class[hidden]")) player.pause();
  };
  filter.addEventListener("input", search);
  search();
})();
