"""A cache that takes tokens back: what follows is as if they had never been read."""

import copy

import pytest
import torch

from minexaone.config_json import GLOBAL, SLIDING
from minexaone.fast.cpu import FastCPU
from minexaone.model import Config, Exaone4, KVCache

W = 8
HYBRID = Config(vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=6,
                num_key_value_heads=2, head_dim=16, layer_types=[SLIDING, SLIDING, SLIDING, GLOBAL], sliding_window=W,
                eos_token_id=2)
KINDS = pytest.mark.parametrize("kind", ["clear", "fast"])


@pytest.fixture(scope="module")
def forwards():
    torch.manual_seed(0)
    model = Exaone4(HYBRID).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return {"clear": model, "fast": FastCPU(model)}


def read(forward, ids, cache, step=1):
    """The logits of ids [B, T], fed `step` at a time."""
    with torch.inference_mode():
        return torch.cat([forward(part, cache) for part in ids.split(step, 1)], 1)


def some_ids(rows, length, seed):
    return torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


@KINDS
@pytest.mark.parametrize("length", [3, W - 1, W, W + 1, 5 * W])
@pytest.mark.parametrize("taken", [1, 3, 6])
def test_what_follows_is_as_if_the_tokens_had_never_been_read(forwards, kind, length, taken):
    forward, cache = forwards[kind], KVCache(HYBRID, spare=6)
    kept, other = some_ids(1, length, 1), some_ids(1, 3 * W, 2)
    read(forward, kept, cache, 5)
    for n in range(3):  # more than once, a token at a time and some together
        read(forward, some_ids(1, taken, 3 + n), cache, 1 + n)
        cache.rewind(length)
        assert cache.columns == cache.length == length
    found = torch.cat([read(forward, other[:, :4], cache, 4), read(forward, other[:, 4:], cache)], 1)
    expected = read(forwards["clear"], torch.cat((kept, other), 1), KVCache(HYBRID))[:, length:]
    assert (found - expected).abs().max() <= 2e-5 * expected.std()


@KINDS
def test_rows_go_back_each_to_its_own_length(forwards, kind):
    forward, cache = forwards[kind], KVCache(HYBRID, spare=6)
    ids, lengths = some_ids(3, 3 * W, 1), torch.tensor([[3 * W], [2 * W + 3], [5]])
    mask = (torch.arange(3 * W).flip(0) < lengths).long()
    with torch.inference_mode():
        forward(ids, cache, mask)
        forward(some_ids(3, 6, 2), cache)
        cache.rewind(lengths + torch.tensor([[4], [0], [2]]))
        more = some_ids(3, 2 * W, 4)
        found = torch.cat([forward(more[:, :3], cache), read(forward, more[:, 3:], cache)], 1)
    for row, (kept, taken) in enumerate([(4, 6), (0, 6), (2, 6)]):
        alone = torch.cat((ids[row:row + 1, 3 * W - lengths[row]:], some_ids(3, taken, 2)[row:row + 1, :kept],
                           more[row:row + 1]), 1)
        expected = read(forwards["clear"], alone, KVCache(HYBRID))[:, -2 * W:]
        assert (found[row] - expected[0]).abs().max() <= 2e-5 * expected.std(), row


@pytest.mark.parametrize("spare", [0, 6])
def test_a_ring_that_has_moved_on_says_so_and_stays_as_it_was(forwards, spare):
    cache, ids = KVCache(HYBRID, spare=spare), some_ids(1, 4 * W, 1)
    read(forwards["clear"], ids, cache)
    before = copy.deepcopy(cache)
    for length in (4 * W - spare - 2, W, 0):
        with pytest.raises(ValueError, match=rf"a window of {W} tokens and {spare} spare ones .* read the text anew"):
            cache.rewind(length)
    assert (cache.length, cache.columns) == (before.length, before.columns)
    cache.rewind(4 * W - spare - 1)  # the token that left last is not seen by what follows
    with pytest.raises(ValueError):  # although few tokens are taken back now, their slots had been written over
        cache.rewind(4 * W - spare - 3)
    last = ids[:, 4 * W - spare - 1:]
    expected = read(forwards["clear"], torch.cat((ids, ids[:, :9]), 1), KVCache(HYBRID))
    found = torch.cat((read(forwards["clear"], last, cache), read(forwards["clear"], ids[:, :9], cache)), 1)
    assert (found - expected[:, -found.shape[1]:]).abs().max() <= 2e-5 * expected.std()


def test_spare_slots_cost_what_they_hold_and_global_layers_none():
    config = HYBRID
    model = Exaone4(config).eval()
    plain, spare = KVCache(config, 4 * W), KVCache(config, 4 * W, spare=6)
    for cache in (plain, spare):
        read(model, some_ids(1, 3 * W, 1), cache)
    slot = 2 * config.num_key_value_heads * config.head_dim * 4
    assert spare.nbytes - plain.nbytes == 3 * 6 * slot
    assert [keys.shape[2] for keys in spare.keys] == [W + 6] * 3 + [4 * W]


def test_a_longer_reply_gets_its_room_at_once():
    model, cache = Exaone4(HYBRID).eval(), KVCache(HYBRID, 10)
    read(model, some_ids(1, 8, 1), cache)
    cache.max_length = 100
    read(model, some_ids(1, 1, 2), cache)
    assert cache.keys[-1].shape[2] == 100
