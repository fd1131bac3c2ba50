"""The drawn figures of the lessons: well-formed, described, each used once, and their numbers those of the package."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F

from minexaone import Tokenizer
from minexaone.config_json import GLOBAL
from minexaone.model import Config, rope_frequencies
from minexaone.tasks.base import Example
from minexaone.training.__main__ import STAGES
from minexaone.training.agapo import leave_one_out, normalise
from minexaone.training.data import turn_document

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
FIGURES = sorted((NOTEBOOKS / "figures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def drawing(name):
    return ET.parse(NOTEBOOKS / "figures" / f"{name}.svg").getroot()


def texts(name):
    return ["".join(text.itertext()) for text in drawing(name).iter(f"{SVG}text")]


def classes(text):
    return text.get("class", "").split()


def pages():
    """Every lesson and page with all its text."""
    for path in [*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("solutions/*.ipynb"), *NOTEBOOKS.glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        yield path.name, text


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_stands_alone_and_is_described_and_can_be_read(path):
    root, source = ET.parse(path).getroot(), path.read_text(encoding="utf-8")
    assert len(root.find(f"{SVG}title").text) >= 20 and len(root.find(f"{SVG}desc").text) >= 80
    assert not [element.tag for element in root.iter() if element.tag.split("}")[1] in ("script", "image", "use", "a")]
    outside = source.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "://" not in outside and "@import" not in outside and not re.search(r"url\((?!#)", outside)
    width, height = float(root.get("width")), float(root.get("height"))
    assert width <= 720 and root.get("viewBox") == f"0 0 {width:g} {height:g}"
    assert min(map(int, re.findall(r"font-size:(\d+)px", source))) >= 12
    ground = root.find(f"{SVG}rect")
    assert (ground.get("width"), ground.get("fill")) == (root.get("width"), "#fff"), "a ground of its own: dark pages"
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("x")) < width and 0 < float(text.get("y")) < height, "".join(text.itertext())


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_is_shown_once_with_a_text(path):
    image = re.compile(rf"!\[([^\]]*)\]\(figures/{path.name}\)")
    shown = [(page, alt) for page, text in pages() for alt in image.findall(text)]
    assert len(shown) == 1, shown
    assert len(shown[0][1]) >= 40


def test_attention_in_numbers():
    found = texts("attention")
    vectors = [text.split() for text in found if re.fullmatch(r"\d \d \d \d", text)]
    q, k, v = torch.tensor([[float(x) for x in row] for row in vectors]).view(4, 3, 4).unbind(1)
    scores, out = q @ k.T / 2, F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    weights = scores.masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
    assert [text for text in found if re.fullmatch(r"\d\.\d", text)] == [f"{x:.1f}" for x in scores.flatten()]
    written = [text for text in found if re.fullmatch(r"\d\.\d\d|0", text)]
    assert written == [f"{x:.2f}" if x else "0" for x in weights.flatten()]
    for row in torch.tensor([float(x) for x in written]).view(4, 4):
        assert abs(row.sum() - 1) < 1e-5, "rounded, a row still adds up to 1"
    rows = [text.split() for text in found if re.fullmatch(r"(\d\.\d\d\s*){4}", text)]
    assert rows == [[f"{x:.2f}" for x in row] for row in out]


def test_the_rendered_conversation_and_what_counts_in_it():
    pieces = [("".join(text.itertext()), "on" in classes(text)) for text in drawing("template").iter(f"{SVG}text")
              if {"on", "off"} & {*classes(text)}]
    tokenizer = Tokenizer.from_pretrained()
    messages = [{"role": "user", "content": "My number is 7."}, {"role": "assistant", "content": "Noted."},
                {"role": "user", "content": "What is my number?"}]
    example = Example("", "en", 1, messages, {"role": "assistant", "content": "It is 7."}, {},
                      {"steps": "They said 7."}, reasoning=True)
    document = turn_document(example, tokenizer, Random(1))  # 1: the thought is not cut
    counted = [[piece for piece, on in pieces if on], [piece for piece, on in pieces if not on]]
    for weight, shown in zip((1, 0), counted, strict=True):
        ids = [id for id, w in zip(document.ids, document.weights, strict=True) if w == weight]
        assert tokenizer.decode(ids).replace("\n", "↵") == "".join(shown)
    assert tokenizer.decode(document.ids).replace("\n", "↵") == "".join(piece for piece, _ in pieces)


def test_the_advantages_of_three_groups():
    found = [text.replace("−", "-") for text in texts("advantages")]
    rewards = torch.tensor([float(text[-1]) for text in found if re.fullmatch("[✓✗] [01]", text)]).view(3, 8)
    others = (rewards.sum(1, keepdim=True) - rewards) / 7
    difference, advantage = leave_one_out(rewards), normalise(leave_one_out(rewards))
    assert f"of the batch: {difference.square().mean().sqrt():.2f}" in found
    assert [text for text in found if re.fullmatch(r"\d\.\d\d", text)] == [f"{x:.2f}" for x in others[0]]
    signed = [float(text) for text in found if re.fullmatch(r"[+-]\d\.\d\d|0", text)]
    expected = torch.cat((difference[:1], advantage)).flatten()
    torch.testing.assert_close(torch.tensor(signed), expected, atol=0.0051, rtol=0)


@pytest.mark.parametrize("word", [" bigger", "한국"])
def test_the_merges_are_those_of_the_shipped_tokenizer(word):
    tokenizer = Tokenizer.from_pretrained()
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in
              tokenizer.to_dict()["model"]["merges"]]
    alphabet = {id: token for token, id in tokenizer.to_dict()["model"]["vocab"].items() if len(token) == 1}
    letters = {tokenizer.token_bytes(id): letter for id, letter in alphabet.items()}
    tokens = [letters[bytes([byte])] for byte in word.encode()]
    expected = ["bytes", *(f"{byte:02x}" for byte in word.encode()), "letters", *tokens]
    for rank, (left, right) in enumerate(merges):  # one after the other through the whole list, as merges were learnt
        for i in reversed(range(len(tokens) - 1)):
            if tokens[i:i + 2] == [left, right]:
                tokens[i:i + 2] = [left + right]
                expected += [f"rank {rank}", *tokens]
    found = texts("merges")
    assert any(found[i:i + len(expected)] == expected for i in range(len(found)))
    assert len(tokenizer.encode(word)) == len(tokens)


def test_the_hands_turn_as_fast_as_the_module_says():
    config = Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                    num_key_value_heads=1, head_dim=8, layer_types=[GLOBAL], rope_theta=10_000.0, eos_token_id=2)
    angles = torch.tensor([0.0, 5.0, 10.0])[:, None] * rope_frequencies(config)
    found = [float(text.removesuffix(" rad")) for text in texts("rope") if text.endswith(" rad")]
    torch.testing.assert_close(torch.tensor(found), angles.flatten(), atol=1e-6, rtol=1e-5)


def test_the_map_has_every_lesson_and_the_pipeline_every_stage():
    lessons = {path.name.partition("_")[0] for path in NOTEBOOKS.glob("[0-9]*.ipynb")}
    assert {text for text in texts("map") if re.fullmatch(r"\d\d[a-z]?", text)} == lessons
    assert [text for text in texts("pipeline") if text in STAGES] == list(STAGES)
