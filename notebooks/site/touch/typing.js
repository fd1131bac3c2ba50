// The tokens of what a reader types: the shipped model's byte-level BPE, as lesson 01 builds it, from its merges.
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\u{1f300}-\u{1faff}]/u;
const COLUMNS = 40, LINES = 5; // of the figure

function reader({control, merges}) {
  const shown = [], bytes = [...Array(256).keys()]; // a letter for each byte: itself if it can be seen, or one from 256 on
  for (const byte of bytes) {
    const seen = byte > 32 && byte < 127 || byte > 160 && byte < 256 && byte !== 173;
    shown.push(String.fromCodePoint(seen ? byte : 256 + bytes.slice(0, byte).filter((b) => shown[b].codePointAt() > 255).length));
  }
  const byteOf = new Map(shown.map((letter, byte) => [letter, byte]));
  const names = [...control, ...[...shown].sort(), ...merges.map((pair) => pair.join(""))];
  const ids = new Map(names.map((name, id) => [name, id]));
  const ranks = new Map(merges.map((pair, rank) => [pair.join(" "), rank]));
  const spelled = new RegExp(control.map((name) => name.replace(/[^\w]/g, "\\$&")).join("|"), "g");

  function pieceIds(piece) {
    let parts = [...new TextEncoder().encode(piece)].map((byte) => shown[byte]);
    for (;;) {
      const pairs = parts.slice(1).map((part, n) => ranks.get(`${parts[n]} ${part}`) ?? Infinity);
      const best = Math.min(...pairs);
      if (best === Infinity) return parts.map((part) => ids.get(part));
      const merged = [];
      for (let n = 0; n < parts.length; n++) merged.push(pairs[n] === best ? parts[n] + parts[++n] : parts[n]);
      parts = merged;
    }
  }

  function encode(text, asTokens) {
    const found = [];
    let done = 0;
    const upTo = (end) => { found.push(...(text.slice(done, end).match(PIECES) ?? []).flatMap(pieceIds)); done = end; };
    for (const match of text.matchAll(spelled)) {
      upTo(match.index + (asTokens ? 0 : 1)); // as text, a cut behind the first letter leaves two harmless halves
      if (asTokens) {
        found.push(ids.get(match[0]));
        done += match[0].length;
      }
    }
    upTo(text.length);
    return found;
  }

  function box(id) {
    if (id < control.length) return {kind: "control token", words: control[id]};
    const own = Uint8Array.from([...names[id]].map((letter) => byteOf.get(letter)));
    try {
      const text = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(own);
      return {kind: "text", words: text.replaceAll(" ", "␣").replaceAll("\n", "↵")};
    } catch {
      return {kind: "bytes", words: [...own].map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")};
    }
  }

  return {encode, box};
}

// The figure's rows for a text, in both Unicode forms and both ways to read it, under the name of a prepared one.
function typed({encode, box}, content, text) {
  const tokens = [], sizes = [];
  for (const form of ["NFC", "NFD"]) {
    const written = content.normalize(form);
    for (const read of ["as text", "as tokens"]) {
      const found = encode(written, read === "as tokens");
      let x = 0, line = 0;
      for (const id of found) {
        const {kind, words} = box(id);
        const width = [...words].reduce((sum, letter) => sum + (WIDE.test(letter) ? 2 : 1), 1);
        if (x + width > COLUMNS) [x, line] = [0, line + 1];
        tokens.push({text, form, read, id, words, kind, x, end: x + width, line});
        if (line === LINES) { // no room: a sign instead of the last box that had some
          tokens.splice(-2, 2, {...tokens.at(-2), words: "…", kind: "text"});
          break;
        }
        x += width;
      }
      sizes.push({text, form, read, tokens: found.length, characters: [...written].length,
                  bytes: new TextEncoder().encode(written).length});
    }
  }
  return {tokens, sizes};
}

// A field beside the figure's controls: what is typed takes the place of the chosen text, until another one is chosen.
function letType(place, {view, spec}) {
  const read = reader(spec.usermeta.tokenizer), bind = document.createElement("div");
  bind.className = "vega-bind";
  bind.innerHTML = '<label><span class="vega-bind-name">or type one</span><input type="text" name="typed" maxlength="120"></label>';
  place.querySelector(".vega-bind").after(bind); // behind the choice of a text
  const field = bind.querySelector("input");
  const show = () => {
    const {tokens, sizes} = field.value ? typed(read, field.value, view.signal("chosen")) : spec.datasets;
    view.data("tokens", tokens).data("sizes", sizes).run();
  };
  field.addEventListener("input", show);
  field.form.addEventListener("submit", (event) => event.preventDefault()); // the Enter key
  view.addSignalListener("chosen", () => {
    if (field.value) view.runAfter(show);
    field.value = "";
  });
}
