// A GPT that has read walks through a house, the room that probes read in it, and edits.

const SIDE = 4, LETTERS = "ABCDEF";
const roomName = (room) => "abcd"[room % SIDE] + (1 + Math.floor(room / SIDE));

// leads[room][letter]: the room behind a door, or −1
const roomAfter = (leads, text) => [...text].reduce((room, letter) => leads[room][LETTERS.indexOf(letter)], 0);

// Read a walk; at its last place the rooms as a probe reads them after `reading` blocks, with room
// `there` put in after `layer` blocks in the place of `here` (none when there < 0); as far along a
// random direction when `ways` is given.
function readWalk(gpt, w, text, { here, there, layer, reading, strength, ways }) {
  const ids = [LETTERS.length, ...[...text].map((letter) => LETTERS.indexOf(letter))], last = ids.length - 1;
  const weight = w[`probe.${layer}.weight`], bias = w[`probe.${layer}.bias`].data;
  let rooms = null;
  const { logits } = gpt.readWhole(ids, { edit: (x, block) => {
    const r = row(x, last);
    if (block === layer && there >= 0 && there !== here) {
      const a = row(weight, here), b = row(weight, there), way = a.map((v, i) => v - b[i]);
      const margin = way.reduce((sum, v, i) => sum + v * r[i], bias[here] - bias[there]);
      const square = way.reduce((sum, v) => sum + v * v, 0), step = (1 + strength) * margin / square;
      const along = ways ? row(ways, there).map((v) => v * Math.sqrt(square)) : way;
      r.forEach((v, i) => { r[i] = v - step * along[i]; });
    }
    if (block === reading) {
      rooms = softmax([...linear(matrix(1, r.length, r.slice()), w[`probe.${block}.weight`], w[`probe.${block}.bias`]).data]);
    }
  } });
  return { rooms, next: softmax([...logits[last].slice(0, LETTERS.length)]) };
}

function render({ model, el }) {
  const ui = frame(model, el, "A network that has read letters on doors, and nothing else");
  const get = (name) => model.get(name), leads = get("leads"), most = get("model_config").max_len - 1;
  const walk = (text) => put(model, { text, there: -1 });
  const doors = [...LETTERS].map((letter) => button(letter, () => walk(get("text") + letter), { "data-name": `door-${letter}` }));
  const back = button("Back", () => walk(get("text").slice(0, -1)), { "data-name": "back", "aria-label": "Take the last letter back" });
  const anew = button("From the start", () => walk(""), { "data-name": "anew" });
  const many = button("Eight doors at random", () => {
    let text = get("text");
    for (let i = 0; i < 8 && text.length < most; i++) {
      const room = roomAfter(leads, text), open = [...LETTERS].filter((_, j) => leads[room][j] >= 0);
      text += open[Math.floor(Math.random() * open.length)];
    }
    walk(text);
  }, { "data-name": "many" });
  const way = choice({ label: "A click on a room moves what flows", name: "random", input: (v) => put(model, { random: v === "random" }),
    options: [["probe", "along the probe"], ["random", "as far, at random"]] });
  const buttons = (...all) => h("div", { style: "display:flex;flex-wrap:wrap;gap:5px" }, all);
  ui.controls.append(h("div", {}, h("p", { class: "note", style: "margin:0 0 3px" }, "Take a door"), buttons(...doors)),
    h("div", {}, h("p", { class: "note", style: "margin:0 0 3px" }, "The walk"), buttons(back, anew, many)), way.node);
  let w = null, gpt = null, fault = "";

  function draw(width) {
    const text = get("text"), here = roomAfter(leads, text), there = get("there"), put_in = there >= 0 && there !== here;
    const open = leads[put_in ? there : here].map((to) => to >= 0), full = text.length >= most;
    way.set(get("random") ? "random" : "probe");
    doors.forEach((door, i) => { door.disabled = full || leads[here][i] < 0; });
    back.disabled = anew.disabled = !text.length;
    many.disabled = full;
    if (!gpt) { ui.say(fault || "The network is on its way …"); return; }
    const how = { here, there, layer: get("layer"), reading: get("reading"), strength: get("strength") };
    const { rooms, next } = readWalk(gpt, w, text, { ...how, ways: get("random") ? w.ways : null });
    const gap = 20, wide = Math.min(58, Math.floor((Math.min(width, 340) - 3 * gap) / SIDE));
    const map = h("div", { style: `display:grid;grid-template-columns:repeat(3,${wide}px ${gap}px) ${wide}px;`
      + `grid-template-rows:repeat(3,${wide}px ${gap}px) ${wide}px;justify-items:stretch;align-items:stretch` });
    const door = (a, b) => leads[a].findIndex((to) => to === b);
    for (let y = 0; y < 2 * SIDE - 1; y++) for (let x = 0; x < 2 * SIDE - 1; x++) {
      const room = SIDE * (y >> 1) + (x >> 1);
      if (y % 2 && x % 2) map.append(h("span", {}));
      else if (y % 2 || x % 2) {
        const letter = door(room, y % 2 ? room + SIDE : room + 1);
        map.append(h("span", { class: "door", style: "display:flex;align-items:center;justify-content:center;font-size:13px;font-weight:600;"
          + (letter < 0 ? "" : "background:var(--well)") }, letter < 0 ? "" : LETTERS[letter]));
      } else {
        const p = rooms[room], is = room === here, new_one = put_in && room === there;
        map.append(h("button", { type: "button", class: "room", "data-room": room, "data-p": p,
          "aria-label": `Room ${roomName(room)}, read with ${(100 * p).toFixed(0)} %${is ? ", you are here" : ""}${new_one ? ", put in" : ""}`,
          onclick: () => put(model, { there: room === there || is ? -1 : room }),
          style: "min-width:0;padding:0;font-size:12.5px;line-height:1.25;border:1px solid var(--soft);"
            + `background:color-mix(in srgb,var(--green) ${Math.round(46 * p)}%,var(--paper));`
            + (new_one ? "outline:3px solid var(--purple);outline-offset:-3px;" : is ? "outline:3px solid var(--ink);outline-offset:-3px;" : "") },
        is ? "you" : "", is && p >= 0.005 ? h("br", {}) : "", p >= 0.005 ? `${(100 * p).toFixed(0)}%` : ""));
      }
    }
    const left = 22, side = Math.max(150, Math.min(230, width - (width < 520 ? 0 : 4 * wide + 3 * gap + 30))), room = side - left - 52;
    const bars = s("svg", { viewBox: `0 0 ${side} 206`, height: 206, style: `width:${side}px`, "aria-hidden": "true" },
      s("text", { class: "soft", x: 2, y: 13 }, "next letter, expected"));
    next.forEach((p, i) => bars.append(
      s("text", { x: left - 8, y: 42 + 30 * i, "text-anchor": "end", style: open[i] ? "font-weight:700" : "" }, LETTERS[i]),
      s("rect", { class: "next", x: left, y: 26 + 30 * i, width: Math.max(1, room * p), height: 22, rx: 3,
        fill: `var(--${open[i] ? "green" : "orange"})`, "data-p": p, "data-open": open[i] ? 1 : 0 }),
      s("text", { x: left + room * p + 6, y: 42 + 30 * i }, `${(100 * p).toFixed(0)} %`)));
    ui.body.replaceChildren(h("p", { class: "letters", style: "margin:0 0 8px;min-height:1.5em;font:600 15px/1.5 ui-monospace,monospace;overflow-wrap:anywhere" },
      text ? `read: ${[...text].join(" ")}` : "read: nothing yet"),
    h("div", { style: "display:flex;flex-wrap:wrap;gap:12px 26px;align-items:flex-start" }, map, bars));
    const mass = next.reduce((sum, p, i) => sum + (open[i] ? p : 0), 0), best = rooms.indexOf(Math.max(...rooms));
    Object.assign(ui.readout.dataset, { mass, best, here });
    ui.say(put_in
      ? `Put in: room ${roomName(there)}. Now <b>${(100 * mass).toFixed(0)} %</b> goes to <b>that</b> room’s doors (green); the letters still lead to ${roomName(here)}.`
      : `You stand in ${roomName(here)}; the probe reads <b>${roomName(best)}</b> (${(100 * rooms[best]).toFixed(0)} %). `
        + `The network gives <b>${(100 * mass).toFixed(0)} %</b> to this room’s doors (green). Click another room.`);
  }
  weightsOf(model).then((ready) => { w = ready; gpt = makeGPT(ready, get("model_config")); },
    (error) => { fault = String(error.message); })
    .then(() => { if (ui.body.clientWidth) draw(Math.floor(ui.body.clientWidth)); });
  return redraw(model, ui.body, ["text", "there", "random"], draw);
}

export default { render };
