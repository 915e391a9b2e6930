/* What widgets leave to the page: files are bounded before they are sent and may be dropped, sliders get names,
   and the thread of a page that goes away is given back. */
(() => {
  const click = HTMLInputElement.prototype.click, bounded = new WeakSet();
  let dropped = null;
  const tell = (text) => {
    const place = document.getElementById("refused");
    place.textContent = text;
    place.hidden = !text;
  };
  const check = (event) => {
    const large = [...event.target.files].find((file) => file.size > MOST_BYTES);
    tell(large ? `${large.name} has ${(large.size / 2 ** 20).toFixed(1)} MiB: ` +
      `${MOST_BYTES / 2 ** 20} at most, make it smaller` : "");
    if (large) event.stopImmediatePropagation();
  };
  HTMLInputElement.prototype.click = function () {  // the input of an upload lies outside of the document
    if (this.type !== "file") return click.call(this);
    if (!bounded.has(this)) {
      bounded.add(this);
      this.addEventListener("change", check, { capture: true });
    }
    if (!dropped) return click.call(this);
    this.files = dropped;
    dropped = null;
    this.dispatchEvent(new Event("change"));
  };
  const target = (event) => {  // a picture dropped anywhere is a query, a sound is a sound
    const item = [...event.dataTransfer.items].find((one) => one.kind === "file");
    if (!item) return null;
    const buttons = [...document.querySelectorAll(".widget-upload")];
    return event.target.closest?.(".widget-upload") ?? buttons[item.type.startsWith("audio/") ? 1 : 0];
  };
  const mark = (button) => document.querySelectorAll(".widget-upload").forEach(
    (one) => one.classList.toggle("dragged", one === button));
  document.addEventListener("dragover", (event) => {
    const button = target(event);
    if (button) event.preventDefault();
    mark(button);
  });
  document.addEventListener("dragleave", () => mark(null));
  document.addEventListener("drop", (event) => {
    const button = target(event);
    mark(null);
    if (!button) return;
    event.preventDefault();
    dropped = event.dataTransfer.files;
    button.click();
  });
  new MutationObserver(() => {
    for (const handle of document.querySelectorAll(".noUi-handle:not([aria-label])")) {
      const label = handle.closest(".widget-slider")?.querySelector(".widget-label");
      if (label?.textContent) handle.setAttribute("aria-label", label.textContent);
    }
  }).observe(document, { childList: true, subtree: true });
})();
