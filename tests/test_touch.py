"""The figures to touch: their controls are moved in a browser, and what they show is what the course computes."""

import html
import json
import math
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
import torch

from minexaone.bench import SHAPES, prefill_flops
from minexaone.generation import sample
from minexaone.model import Config, Exaone4, KVCache, apply_rope, cache_bytes, rope_frequencies
from minexaone.scoring.evaluate import wilson
from minexaone.tokenizer import Tokenizer
from minexaone.touch import MIME, NAMES, for_site, touch
from minexaone.touch.__main__ import TEXTS, next_logits, token_rows
from minexaone.training.agapo import grpo_advantages, leave_one_out, normalise

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "notebooks" / "site" / "touch"
SCRIPTS = ["vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "typing.js", "touch.js"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

# Moves controls as a reader does, by their inputs, and writes down what the figure has then.
MOVE = """
const place = document.querySelector(".touch");
place.drawn.then(async ({view, vgSpec}) => {
  const found = [];
  for (const moves of STEPS) {
    for (const [name, value] of Object.entries(moves)) {
      const inputs = [...document.querySelectorAll(`.vega-bindings [name="${name}"]`)];
      const input = inputs.length > 1 ? inputs.find((one) => one.value === String(value)) : inputs[0];
      if (input.type === "checkbox") input.checked = value;
      else if (input.type === "radio") input.checked = true;
      else input.value = value;
      for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, {bubbles: true}));
      if (input.type === "text") input.form.requestSubmit();  // the Enter key
    }
    await view.runAsync();
    const signals = Object.fromEntries(NAMES.map((name) => [name, view.signal(name)]));
    const data = Object.fromEntries(vgSpec.data.map(({name}) => [name, view.data(name)]));
    found.push(JSON.stringify({signals, data, picture: document.querySelector(".touch svg").outerHTML}));
  }
  const controls = [...document.querySelectorAll(".vega-bindings input, .vega-bindings select")].map(
    (one) => ({name: one.name, words: one.closest(".vega-bind").textContent, labels: one.labels.length}));
  return {found, controls, width: document.querySelector(".touch svg").getBoundingClientRect().width};
}).catch((error) => ({error: String(error)})).then((result) => {
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = "FOUND" + JSON.stringify(result) + "FOUND";
});
"""


def moved(tmp_path, name, steps, all_change=True):
    """What a figure has after each step {control: value}, with its controls, in a real browser at a phone's width."""
    if BROWSER is None:
        pytest.skip("needs a browser: chromium or chrome")
    spec = for_site(touch(name).spec)
    scripts = "".join(f'<script src="{(RUNTIME / file).as_uri()}"></script>' for file in SCRIPTS)
    names = [param["name"] for param in spec["params"]]
    move = MOVE.replace("STEPS", json.dumps(steps)).replace("NAMES", json.dumps(names))
    page = tmp_path / f"{name}.html"
    page.write_text('<!doctype html><meta charset="utf-8"><body><div class="touch"><div></div><script type="application'
                    f'/json">{json.dumps(spec)}</script></div>{scripts}<script>{move}</script>', encoding="utf-8")
    done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=375,800",
                           "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
                           page.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=120)
    result = json.loads(html.unescape(re.search(r"FOUND(.+)FOUND", done.stdout, re.S)[1]))
    assert "error" not in result, result
    for param in (param for param in spec["params"] if "bind" in param):
        (control, *_) = [one for one in result["controls"] if one["name"] == param["name"]]
        assert control["labels"] and param["bind"]["name"] in control["words"], f"{param['name']} has no label"
    assert result["width"] <= 327, "wider than a phone"
    found = [json.loads(step) for step in result["found"]]
    pictures = [step["picture"] for step in found]
    same = [n for n, (a, b) in enumerate(zip(pictures, pictures[1:], strict=False), 1) if a == b]
    assert not all_change or not same, f"steps that change nothing: {[steps[n] for n in same]}"
    return [(step["signals"], step["data"]) for step in found]


def table(data, *fields):
    """The rows of the data set that has all these fields, the one with the fewest rows: lists of their values."""
    fitting = [rows for rows in data.values() if rows and all(field in rows[0] for field in fields)]
    return [[row[field] for field in fields] for row in min(fitting, key=len)]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_described_and_each_of_its_controls_is_named(name):
    figure = touch(name)
    assert len(figure.spec["description"]) >= 80
    bundle = figure._repr_mimebundle_()
    assert bundle[MIME] == figure.spec and figure.spec["description"] in bundle["text/plain"]
    bound = [param["bind"] for param in figure.spec["params"] if "bind" in param]
    assert bound and all(len(bind["name"]) > 3 for bind in bound)


def test_lessons_store_figures_as_they_are_now():
    shown = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", ()):
                if MIME in output.get("data", {}):
                    shown += re.findall(r'touch\("(\w+)"\)', "".join(cell["source"]))
                    assert output["data"][MIME] == touch(shown[-1]).spec, f"execute {path.name} again"
    assert len(shown) == len(set(shown)) >= 7


def test_an_unknown_figure_is_told():
    with pytest.raises(ValueError, match="there is no figure 'clock': expected .*rope"):
        touch("clock")


def test_the_runtime_has_its_licenses():
    text = (RUNTIME / "LICENSES.txt").read_text(encoding="utf-8")
    for file in SCRIPTS[:3]:
        version = re.search(rf"{file.split('.')[0]} (\d+\.\d+\.\d+)", text)[1]
        assert version in (RUNTIME / file).read_text(encoding="utf-8"), f"{file} is not {version}"


# --------------------------------------------------------------------------------------------------- each figure


def shape(layers, window, head_dim=8, **options):
    """A configuration with layers such as LLLG."""
    kinds = [{"L": "sliding_attention", "G": "full_attention"}[kind] for kind in layers]
    return Config(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=len(layers),
                  num_attention_heads=2, num_key_value_heads=1, head_dim=head_dim, layer_types=kinds,
                  sliding_window=window, eos_token_id=2, **options)


def test_rope(tmp_path):
    frequencies = rope_frequencies(shape("G", None, rope_theta=1e4))
    steps = [{}, {"key": 20}, {"apart": 11}, {"key": 60, "apart": 60}]
    settings = [(0, 3), (20, 3), (20, 11), (60, 60)]
    for (key, apart), (signals, data) in zip(settings, moved(tmp_path, "rope", steps), strict=True):
        q = k = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
        turned = []
        for vector, position in ((q, key + apart), (k, key)):
            angles = position * frequencies
            turned.append(apply_rope(vector[None, None], angles.cos()[None, None], angles.sin()[None, None])[0, 0])
        assert signals["score"] == pytest.approx(float(turned[0] @ turned[1]) / 4, abs=1e-4)
        rows = table(data, "pair", "omega", "query_x", "query_y", "key_x", "key_y", "share")
        for (pair, omega, qx, qy, kx, ky, share), n in zip(rows, range(4), strict=True):
            assert pair == n and omega == pytest.approx(float(frequencies[n]))
            for x, y, hand, vector in ((qx, qy, 0.42, turned[0]), (kx, ky, 0.27, turned[1])):
                assert (x - n, y) == pytest.approx((hand * float(vector[n]), hand * float(vector[n + 4])), abs=1e-4)
            assert share == pytest.approx(math.cos(apart * float(frequencies[n])), abs=1e-4)
        curve = dict(table(data, "distance", "score"))
        assert curve[apart] == pytest.approx(signals["score"])


def test_mask(tmp_path):
    steps = [{}, {"window": 9}, {"tokens": 24}, {"pattern": "LG"}, {"pattern": "L", "window": 24}, {"pattern": "G"}]
    settings = [(12, 4, "LLLG"), (12, 9, "LLLG"), (24, 9, "LLLG"), (24, 9, "LG"), (24, 24, "L"), (24, 24, "G")]
    for (T, window, layers), (signals, data) in zip(settings, moved(tmp_path, "mask", steps), strict=True):
        config = shape(layers, window)
        i, j = torch.arange(T)[:, None], torch.arange(T)
        see = torch.stack([(j <= i) & (i - (config.window(n) or T) < j) for n in range(len(layers))])
        assert (signals["pairs"], signals["keys_kept"]) == (int(see.sum()), cache_bytes(config, T) // (2 * 8 * 2))
        assert (signals["pairs_global"], signals["keys_global"]) == (len(layers) * T * (T + 1) // 2, len(layers) * T)
        rows = table(data, "query", "key", "seen")
        assert len(rows) == T * T
        for query, key, seen in rows:
            layers_that = int(see[:, query, key].sum())
            assert seen == ("every layer" if layers_that == len(layers) else "global layers only" if layers_that
                            else "no layer")


def test_ring(tmp_path):
    steps = [{}, {"order": "store first"}, {"number": 0}, {"number": 3, "chunk": 6}, {"window": 8}, {"chunk": 1},
             {"order": "look first", "number": 6}]
    settings = [(2, 3, 4, "look first"), (2, 3, 4, "store first"), (0, 3, 4, "store first"), (3, 6, 4, "store first"),
                (3, 6, 8, "store first"), (3, 1, 8, "store first"), (6, 1, 8, "look first")]
    for (number, chunk, W, order), (_, data) in zip(settings, moved(tmp_path, "ring", steps), strict=True):
        ring, config = [-1] * W, shape("L", W)
        cache = KVCache(config)
        for position in range(number * chunk):  # the module's cache, with positions for keys
            cache.extend(1, None, torch.device("cpu"))
            key = torch.full((1, 1, 1, config.head_dim), float(position))
            cache.update(0, key, key, torch.tensor([position]))
            ring[position % W] = position
        before, first = list(ring), number * chunk
        new = range(first, first + chunk)
        for position in new:
            ring[position % W] = position
        positions = cache.extend(chunk, None, torch.device("cpu"))
        keys = positions.float()[None, None, :, None].expand(1, 1, chunk, config.head_dim)
        looked, _, at = cache.update(0, keys, keys, positions)
        looked = looked[0, 0, :, 0] if at is None else looked[0, 0, at.flatten() >= 0, 0]
        assert [int(k) if p >= 0 else -1 for k, p in zip(cache.keys[0][0, 0, :, 0], ring, strict=False)] == ring[
            :cache.keys[0].shape[2]]
        for when, held in (("before", before), ("after", ring)):
            rows = [row[1:] for row in table(data, "when", "slot", "held", "kind") if row[0] == when]
            assert [slot for slot, _, _ in rows] == list(range(W))
            assert [max(held, -1) for _, held, _ in rows] == held
            assert [kind for *_, kind in rows] == ["empty" if p < 0 else "new" if p >= first else "old" for p in held]
        visible = {int(key) for key in looked} if order == "look first" else set(ring)
        looks = {(token, key): "finds" if key in visible else "misses"
                 for token in new for key in range(max(0, token - W + 1), token + 1)}
        assert {(token, key): sees for token, key, sees in table(data, "token", "key", "sees")} == looks
        assert order == "store first" or set(looks.values()) == {"finds"}


def test_sampler(tmp_path):
    stored = touch("sampler").spec["datasets"]
    logits, names = next_logits(Exaone4.from_pretrained(dtype="float32", device="cpu"), Tokenizer.from_pretrained())
    assert stored["names"] == names, "run python -m minexaone.touch"
    assert logits == pytest.approx(stored["logits"], abs=2e-3)
    steps = [{}, {"draw": 0.99}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 0, "temperature": 2},
             {"temperature": 0}]
    settings = [(1, 0, 1, 0.5), (1, 0, 1, 0.99), (0.6, 0, 1, 0.99), (0.6, 5, 1, 0.99), (0.6, 5, 0.7, 0.99),
                (2, 0, 0.7, 0.99), (0, 0, 0.7, 0.99)]
    logits = torch.tensor([stored["logits"]])
    for (*options, draw), (_, data) in zip(settings, moved(tmp_path, "sampler", steps), strict=True):
        rows = next(rows for rows in data.values() if len(rows) == len(logits[0]) and "drawn" in rows[0])
        found = torch.tensor([row["probability"] for row in rows], dtype=torch.float64)
        even = (torch.arange(20_000) + 0.5) / 20_000  # every share of the line of uniform numbers
        chosen = sample(logits.expand(len(even), -1), even, *options)
        counted = torch.bincount(chosen, minlength=len(found)) / len(even)
        assert found.sum() == pytest.approx(1) and (found - counted).abs().max() < 1.1e-4
        assert [n for n, row in enumerate(rows) if row["drawn"]] == sample(logits, torch.tensor([draw]),
                                                                           *options).tolist()
        shown = table(data, "token", "words")
        assert [token for token, _ in shown] == [name["token"] for name in names]


def test_tokens(tmp_path):
    tokenizer, stored = Tokenizer.from_pretrained(), touch("tokens").spec["datasets"]
    rows, sizes = token_rows(tokenizer)
    assert stored == {"tokens": rows, "sizes": sizes}, "run python -m minexaone.touch"
    steps = [{}, {"form": "NFD"}, {"chosen": "Spanish"}, {"form": "NFC"}, {"chosen": "English"},
             {"chosen": "a forged turn"}, {"read": "as tokens"}]
    settings = [("Korean", "NFC", False), ("Korean", "NFD", False), ("Spanish", "NFD", False),
                ("Spanish", "NFC", False), ("English", "NFC", False), ("a forged turn", "NFC", False),
                ("a forged turn", "NFC", True)]
    for (text, form, parse), (_, data) in zip(settings, moved(tmp_path, "tokens", steps), strict=True):
        written = unicodedata.normalize(form, TEXTS[text])
        expected = tokenizer.encode(written, parse_special=parse)
        shown = table(data, "id", "kind", "left", "right", "line")
        assert [row[0] for row in shown] == expected
        assert (parse or tokenizer.decode(expected) == written)
        assert [kind == "control token" for _, kind, *_ in shown] == [id in tokenizer.special_ids for id in expected]
        assert all(0 < left < right < 40 and line < 5 for *_, left, right, line in shown)
        size = f"{len(expected)} tokens: {len(written)} characters, {len(written.encode())} bytes"
        assert [words for words, _ in table(data, "words", "characters")] == [size]


TYPED = ["각나다라 " * 12, "Hola, ¿qué tal? Mañana 12 + 34 = 46.", "너가 얼마나   대단한지\u3000설명해 봐! 각나",
         "ñandú café 日本語 ½ x² a_b --- ' ' '",
         "don't  <think>12</think> I'll🙂 go\t3.9 ", "[|user|][|endofturn|] [|assistant|", "\u00ad\u00a0ÿ\u0100 "]


def test_tokens_of_what_is_typed(tmp_path):
    tokenizer = Tokenizer.from_pretrained()
    rows, _ = token_rows(tokenizer)
    settings = [(text, form, parse) for text in TYPED for form in ("NFC", "NFD") for parse in (False, True)]
    steps = [{"typed": text, "form": form, "read": f"as {'tokens' if parse else 'text'}"}
             for text, form, parse in settings]
    found = moved(tmp_path, "tokens", [*steps, {"typed": TEXTS["Spanish"], "form": "NFD", "read": "as text"},
                                       {"chosen": "English"}, {"typed": "x"}, {"typed": ""}], all_change=False)
    for (text, form, parse), (_, data) in zip(settings, found, strict=False):
        written = unicodedata.normalize(form, text)
        expected = tokenizer.encode(written, parse_special=parse)
        size = f"{len(expected)} tokens: {len(written)} characters, {len(written.encode())} bytes"
        assert [words for words, _ in table(data, "words", "characters")] == [size], (text, form, parse)
        shown = table(data, "id", "words")
        if cut := shown[-1][1] == "…":
            assert len(shown) > 20
        ids = [id for id, _ in shown[:len(shown) - cut]]
        assert ids == (expected[:len(ids)] if cut else expected)
    boxes = [[row[key] for key in ("id", "words", "kind", "x", "end", "line")] for row in rows
             if (row["text"], row["form"]) == ("Spanish", "NFD")]
    assert table(found[-4][1], "id", "words", "kind", "x", "end", "line") == boxes
    english = tokenizer.encode(TEXTS["English"])
    assert [[row[0] for row in table(data, "id", "left")] for _, data in found[-3:]] == [
        english, tokenizer.encode("x"), english]


def test_roofline(tmp_path):
    steps = [{}, {"rows_log": 5}, {"bits": 4}, {"model": "32B"}, {"bandwidth_log": 3.5, "peak_log": 3}]
    settings = [(1.95, 0, "1.2b", 16, 1), (1.95, 0, "1.2b", 16, 32), (1.95, 0, "1.2b", 4, 32), (1.95, 0, "32b", 4, 32),
                (3.5, 3, "32b", 4, 32)]
    for (fast, much, name, bits, rows), (found, data) in zip(settings, moved(tmp_path, "roofline", steps), strict=True):
        config, bandwidth, peak = SHAPES[name], 10**fast * 1e9, 10**much * 1e12
        weights = prefill_flops(config, 1) / 2 - 2 * (  # all but attention, to one token
            config.num_attention_heads * config.head_dim * config.num_hidden_layers)
        assert found["weights"] == weights
        limit = min(bandwidth / (weights * bits / 8) * rows, peak / (2 * weights))
        assert found["tokens_per_second"] == pytest.approx(limit)
        assert found["ridge"] == pytest.approx(peak / bandwidth)
        ((at, reach),) = [row for row in table(data, "at", "reach")]
        assert (at, reach) == pytest.approx((16 * rows / bits, min(peak, bandwidth * 16 * rows / bits) / 1e12))
        assert reach * 1e12 == pytest.approx(2 * weights * limit)
        for x, y, kind in table(data, "at", "reach", "limit"):
            assert y == pytest.approx(min(peak, bandwidth * x) / 1e12)
            assert kind == ("memory limits" if bandwidth * x < peak else "arithmetic limits")


def test_advantages(tmp_path):
    steps = [{}, {"r2": True}, {"others": 0}, {"r1": False, "r2": False, "r4": False},
             {f"r{n}": True for n in range(1, 9)}, {"others": 7}]
    right = [{1, 4}, {1, 2, 4}, {1, 2, 4}, set(), set(range(1, 9)), set(range(1, 9))]
    others = [4, 4, 0, 0, 0, 7]
    for good, other, (_, data) in zip(right, others, moved(tmp_path, "advantages", steps), strict=True):
        rewards = torch.tensor([[float(n in good) for n in range(1, 9)], [1.0] * other + [0.0] * (8 - other)])
        alone = leave_one_out(rewards)
        expected = {"REINFORCE": rewards[0], "leave-one-out": alone[0], "GRPO": grpo_advantages(rewards)[0],
                    "AGAPO, by its formula": normalise(alone)[0]}
        assert len(data["advantages"]) == 32
        for row in data["advantages"]:
            method, reply, advantage, verdict = (row[key] for key in ("method", "reply", "advantage", "verdict"))
            assert advantage == pytest.approx(float(expected[method][reply]), abs=1e-5), method
            assert verdict == ("right" if reply + 1 in good else "wrong")


def sign_test(first, second):
    """As lesson 16 has it: the chance that a fair coin is at least as uneven."""
    n, most = first + second, max(first, second)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n) if n else 1.0


def test_intervals(tmp_path):
    steps = [{}, {"questions": 30, "percent": 100}, {"second": 6}, {"first": 30, "second": 17}, {"questions": 2000},
             {"first": 0, "second": 0, "percent": 45}]
    settings = [(100, 97, 6, 0), (30, 30, 6, 0), (30, 30, 6, 6), (30, 30, 30, 17), (2000, 2000, 30, 17),
                (2000, 900, 0, 0)]
    for (n, right, first, second), (found, data) in zip(settings, moved(tmp_path, "intervals", steps), strict=True):
        assert found["right"] == right
        spread = 1.96 * math.sqrt(right / n * (1 - right / n) / n)
        expected = {"Wilson": wilson(right, n), "textbook": (right / n - spread, right / n + spread)}
        for method, low, high in table(data, "method", "low", "high"):
            assert (low, high) == pytest.approx(expected[method])
        ((chance,),) = table(data, "sign_test")
        assert chance == pytest.approx(sign_test(first, second))
        coin = table(data, "heads", "chance", "kind")
        assert [heads for heads, *_ in coin] == list(range(first + second + 1))
        assert all(p == pytest.approx(math.comb(first + second, k) / 2**(first + second)) for k, p, _ in coin)
