#!/usr/bin/env bash
# Guess: the average of a bfloat16 model is the average of its weights, up to rounding, in torch's AveragedModel (the
# plain mean, and get_ema_multi_avg_fn(0.999), the default decay) and in ema-pytorch: at least it goes along with the
# model.
#
# The average is a copy of the model, so it is bfloat16 as well, and each update moves it by a part of the way to the
# model: 1 / (n + 1) or 0.001. bfloat16 has 8 bits: a step of less than 1/512 to 1/256 of a weight is rounded to none.
# So the mean stops after some hundred updates, and a moving average with a decay above 0.996 hardly begins, unless a
# weight is several times further away than it is large. Nobody says a word.
# Seen, torch 2.13.0, ema-pytorch 0.8.3: a small Exaone4 model in bfloat16 learns from a loss of 4.17 to 1.81 in 1500
# steps; the moving average is at 4.05 (that of the same weights, kept in float32: 1.91), the plain mean at 2.24 (1.81).
# On a straight line of 10000 updates the mean has gone 0.001 of the way (0.5 would be right), the moving average 0.10
# (0.90), ema-pytorch's defaults with update_every=1 0.42 (0.96). Tied weights stay tied. Programs that train images
# have met it (sd_dreambooth_extension, pull request 1415); in the documentation of both libraries we found nothing.
# A way out: give both a float32 copy for the average. AveragedModel(copy.deepcopy(model).float(), avg_fn=...) with a
# function that casts (multi_avg_fn raises for two types); EMA(model, ema_model=..., coerce_dtype=True).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 ema-pytorch==0.8.3
cat > "$folder/check.py" <<'PYTHON'
import copy
from importlib.metadata import version

import torch
from ema_pytorch import EMA
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Exaone4Config, Exaone4ForCausalLM

torch.set_num_threads(1)


def averages(model):
    """Every average of a model, by name."""
    wide, constant = copy.deepcopy(model).float(), {"beta": 0.999, "min_value": 0.999, "update_after_step": 0}
    return {
        "mean": AveragedModel(model),
        "moving": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999)),
        "ema-pytorch": EMA(model, update_every=1, **constant),
        "ema-pytorch, defaults": EMA(model, update_every=1),
        "mean, float32": AveragedModel(wide, avg_fn=lambda old, new, n: old + (new.to(old.dtype) - old) / (n + 1)),
        "moving, float32": AveragedModel(wide, avg_fn=lambda old, new, n: old.lerp(new.to(old.dtype), 0.001)),
        "ema-pytorch, float32": EMA(model, ema_model=wide, update_every=1, coerce_dtype=True, **constant)}


def update(every):
    for average in every.values():
        average.update() if isinstance(average, EMA) else average.update_parameters(model)


def inner(average):
    return average.ema_model if isinstance(average, EMA) else average.module


print(f"torch {version('torch')}, ema-pytorch {version('ema-pytorch')}")
torch.manual_seed(0)
start, end = torch.randn(2, 64, 64) * 0.02
gone = {}
for dtype in (torch.float32, torch.bfloat16):
    model = torch.nn.Linear(64, 64, bias=False).to(dtype)
    model.weight.data.copy_(start)
    every = averages(model)
    for step in range(1, 10_001):
        model.weight.data.copy_(start + (end - start) * step / 10_000)
        update(every)
    for name, average in every.items():
        way = inner(average).weight.detach().float() - start
        gone[name, dtype] = ((way * (end - start)).sum() / (end - start).square().sum()).item()
for name in every:
    wide, narrow = gone[name, torch.float32], gone[name, torch.bfloat16]
    print(f"straight line, {name}: gone {wide:.4f} of the way for a float32 model, {narrow:.4f} for a bfloat16 one")
    if name.endswith("float32"):
        assert abs(wide - narrow) < 0.01  # the control
    else:
        assert narrow < 0.5 * wide, "averages of bfloat16 models go along"


def rows(count, seed):
    """Rows in which a number is followed by a certain one, 7 times in 10."""
    source = torch.Generator().manual_seed(seed)
    follower = torch.randperm(61, generator=torch.Generator().manual_seed(9))
    columns = [torch.randint(61, (count,), generator=source)]
    for _ in range(23):
        chance = torch.randint(61, (count,), generator=source)
        columns.append(torch.where(torch.rand(count, generator=source) < 0.3, chance, follower[columns[-1]]))
    return torch.stack(columns, 1) + 3


@torch.no_grad()
def loss(network):
    return network(input_ids=held_out, labels=held_out).loss.item()


torch.manual_seed(0)
model = Exaone4ForCausalLM(Exaone4Config(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True, sliding_window=8,
    layer_types=["sliding_attention"] * 3 + ["full_attention"], bos_token_id=1, eos_token_id=2,
    pad_token_id=0)).bfloat16()
every, held_out = averages(model), rows(400, 0)
first = loss(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(1500):
    row = rows(16, 1 + step)
    model(input_ids=row, labels=row).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    update(every)
losses = {name: loss(inner(average)) for name, average in every.items()}
print(f"Exaone4 in bfloat16, loss: first {first:.3f}, last {loss(model):.3f};",
      ", ".join(f"{name} {value:.3f}" for name, value in losses.items()))
assert first > 4 and loss(model) < 1.9
for name in ("moving", "ema-pytorch"):
    assert losses[name] > 3.8, "averages of bfloat16 models go along"
    assert losses[name + ", float32"] < 2  # the control: of the same weights
assert losses["mean"] > losses["mean, float32"] + 0.3, "averages of bfloat16 models go along"
for average in every.values():
    assert inner(average).lm_head.weight is inner(average).model.embed_tokens.weight
PYTHON
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
