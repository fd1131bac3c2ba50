"""Packed documents: as if each were alone, forwards and backwards, also longer than the window."""

from random import Random

import pytest
import torch
import torch.nn.functional as F

from minexaone.config_json import GLOBAL, SLIDING
from minexaone.model import Config, Exaone4
from minexaone.training.packing import Document, PackedModel, pack


def small_model(seed=0):
    torch.manual_seed(seed)
    return Exaone4(Config(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
                          num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=8,
                          layer_types=[SLIDING, SLIDING, SLIDING, GLOBAL], initializer_range=0.3,
                          tie_word_embeddings=True, eos_token_id=1))


def random_documents(lengths, seed=0):
    rng = Random(seed)
    return [Document([rng.randrange(97) for _ in range(n)], [float(rng.random() < 0.7) for _ in range(n)],
                     score=rng.random()) for n in lengths]


LENGTHS = (40, 3, 17, 9, 64, 2, 30)  # up to eight windows


def test_log_probabilities_and_gradients_are_those_of_each_document_alone():
    model, documents = small_model(), random_documents(LENGTHS)
    batches = pack(documents, tokens=128, longest=64)
    assert len(batches) == 2 and all(len(batch.ids) == 128 for batch in batches)
    packed = PackedModel(model)
    sum((packed(batch) * batch.weights).sum() for batch in batches).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    expected, total = [], 0.0
    for document in sorted(documents, key=lambda document: len(document.ids)):
        ids = torch.tensor([document.ids])
        logp = -F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="none")
        total = total + (logp * torch.tensor(document.weights[1:])).sum()
        expected.append(logp)
    total.backward()
    order = iter(expected)
    for batch in batches:
        logp = packed(batch)
        for start, end in zip(batch.starts.tolist(), batch.starts.tolist()[1:], strict=False):
            if end > start and batch.targets[start:end].sum() > 0:
                torch.testing.assert_close(logp[start:end], next(order), atol=2e-5, rtol=0)
    assert next(order, None) is None
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, atol=2e-4, rtol=1e-3)


def test_nothing_is_lost_or_doubled():
    documents = random_documents(LENGTHS)
    batches = pack(documents, tokens=100, longest=64)
    kept = [(batch.ids[s:e].tolist(), batch.targets[s:e].tolist(), batch.scores[d].item(),
             batch.positions[s:e].tolist())
            for batch in batches for d, (s, e) in enumerate(zip(batch.starts, batch.starts[1:], strict=False))
            if batch.targets[s:e].sum() > 0]
    documents.sort(key=lambda document: len(document.ids))
    assert [k[0] for k in kept] == [d.ids[:-1] for d in documents]
    assert [k[1] for k in kept] == [d.ids[1:] for d in documents]
    assert [k[2] for k in kept] == pytest.approx([d.score for d in documents])
    assert all(k[3] == list(range(len(k[0]))) for k in kept)
    assert sum(b.weights.sum() for b in batches) == sum(sum(d.weights[1:]) for d in documents)
    assert all(int((b.starts[1:] - b.starts[:-1]).max()) <= b.longest <= 64 for b in batches)
    assert all(b.starts[-1] == 100 for b in batches)


def test_a_given_number_of_rows_from_endless_documents():
    def endless():
        while True:
            yield from random_documents(LENGTHS)

    batches = pack(endless(), 128, 64, rows=5)
    assert len(batches) == 5 and sum((batch.targets > 0).sum() for batch in batches) > 0.7 * 5 * 128


@pytest.mark.parametrize("length", [1, 66])
def test_a_document_of_wrong_length_is_refused(length):
    with pytest.raises(ValueError, match=f"has {length} tokens, expected 2 to 65"):
        pack(random_documents([length]), tokens=128, longest=64)


def test_the_same_documents_in_smaller_rows_give_the_same_gradient():
    """Where memory holds no row of a GPU's size: the same step, in more rows."""
    def endless():
        while True:
            yield from random_documents(LENGTHS)

    model, gradients, rows = small_model(), [], []
    for fits in (None, 64):
        batches = pack(endless(), 512, 64, rows=1, fits=fits)
        model.zero_grad()
        sum((PackedModel(model)(batch) * batch.weights).sum() for batch in batches).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        rows.append([len(batch.ids) for batch in batches])
    assert rows[0] == [512] and set(rows[1]) == {64} and len(rows[1]) >= 8
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)
