// Pointing at an arm brings it forward in the charts; pointing at a byte shows its bits under every model.
(() => {
  const arms = [...document.querySelectorAll("svg.chart [data-arm]")];
  const focus = (arm) => arms.forEach((g) => g.classList.toggle("away", arm !== null && g.dataset.arm !== arm));

  // Without scripts the browser shows each title; here it would cover the table below.
  const bytes = document.querySelectorAll(".heat b");
  bytes.forEach((b) => { b.dataset.bits = b.title; b.removeAttribute("title"); });
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  let marked = [];

  const point = (b) => {
    marked.forEach((m) => m.classList.remove("here"));
    tip.classList.toggle("shown", Boolean(b));
    if (!b) { marked = []; return; }
    const index = [...b.parentNode.children].indexOf(b);
    const heats = [...b.closest(".passage").querySelectorAll(".heat")];
    marked = heats.map((heat) => heat.children[index]);
    marked.forEach((m) => m.classList.add("here"));
    const rows = heats.map((heat, i) => {
      const row = document.createElement("div");
      const name = heat.parentNode.querySelector("figcaption").cloneNode(true);
      name.querySelector("small")?.remove();
      const bits = document.createElement("span");
      bits.textContent = marked[i].dataset.bits.replace(/^.*?: /, "");
      row.append(name, bits);
      if (heat === b.parentNode) row.className = "this";
      return row;
    });
    const head = document.createElement("p");
    const shown = b.querySelector("i");
    head.textContent = `${shown ? shown.textContent.replace(" ", "space") : b.textContent}  ${b.dataset.bits.split(":")[0]}`;
    tip.replaceChildren(head, ...rows);
    const at = b.getClientRects()[0];
    const below = at.bottom + tip.offsetHeight + 12 < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${below ? at.bottom + 6 : at.top - tip.offsetHeight - 6}px`;
  };

  document.addEventListener("pointerover", (event) => {
    point(event.target.closest(".heat b"));
    focus(event.target.closest("[data-arm]")?.dataset.arm ?? null);
  });
  document.addEventListener("scroll", () => point(null), { passive: true });
})();
