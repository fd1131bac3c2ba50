"""The figures to touch: their controls are moved in a browser, and what they show is what the course computes."""

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from minexaone.model import Config, apply_rope, cache_bytes, rope_frequencies
from minexaone.touch import MIME, NAMES, touch

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "notebooks" / "site" / "touch"
SCRIPTS = ["vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "touch.js"]
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


def moved(tmp_path, name, steps):
    """What a figure has after each step {control: value}, with its controls, in a real browser at a phone's width."""
    if BROWSER is None:
        pytest.skip("needs a browser: chromium or chrome")
    spec = touch(name).spec
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
    assert result["width"] <= 330, "wider than a phone"
    found = [json.loads(step) for step in result["found"]]
    pictures = [step["picture"] for step in found]
    assert all(a != b for a, b in zip(pictures, pictures[1:], strict=False)), "a control that changes nothing"
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
