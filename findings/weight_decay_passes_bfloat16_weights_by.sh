#!/usr/bin/env bash
# Guess: decoupled weight decay shrinks bfloat16 weights as it does float32 ones, up to rounding: in torch's AdamW and
# Muon, in lion-pytorch, and above all in optimi, which is made for weights in bfloat16 (its Kahan sum, on by itself,
# is to "match the performance of mixed precision").
#
# They multiply the weights by 1 - lr * decay in a step of its own, and round. bfloat16 has 8 bits, so for any weight
# the result is the weight itself if lr * decay is below 2 ** -9 = 0.00195; lr = 0.001 with decay = 0.1 is 0.0001.
# So no weight decays in any step. optimi's Kahan sum holds the step of the gradient alone.
# torch's fused AdamW reckons decay and step in float32 and rounds once: there the decay acts.
# Seen, torch 2.13.0, torch-optimi 0.3.3, lion-pytorch 0.2.5: a small Exaone4 model after 40 steps has the same
# weights, bit for bit, with decay 0.1 and with none; in float32 and with fused=True it has not. With gradients of mean
# 0, lr 0.001, decay 0.5 and 1000 steps, where 0.6 of the first weights is to be left, 0.98 to 0.99 is left (fused 0.6).
# A way out: fused=True, or weights kept in float32. (transformers' trainer takes fused AdamW by default, but optimi
# for optim="stable_adamw".) Known of OneTrainer's Adam (its issue 996); of optimi we found nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 torch-optimi==0.3.3 lion-pytorch==0.2.5
cat > "$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import lion_pytorch
import optimi
import torch
from transformers import Exaone4Config, Exaone4ForCausalLM

torch.set_num_threads(1)
AdamW = torch.optim.AdamW
KINDS = {  # name: a function of parameters and decay; whether the decay acts in bfloat16
    "torch AdamW": (lambda weights, decay: AdamW(weights, lr=1e-3, weight_decay=decay), False),
    "torch AdamW, foreach": (lambda weights, decay: AdamW(weights, lr=1e-3, weight_decay=decay, foreach=True), False),
    "torch AdamW, fused": (lambda weights, decay: AdamW(weights, lr=1e-3, weight_decay=decay, fused=True), True),
    "torch Muon": (lambda weights, decay: torch.optim.Muon(weights, lr=1e-3, weight_decay=decay), False),
    "optimi AdamW": (lambda weights, decay: optimi.AdamW(weights, lr=1e-3, weight_decay=decay), False),
    "optimi StableAdamW": (lambda weights, decay: optimi.StableAdamW(weights, lr=1e-3, weight_decay=decay), False),
    "lion-pytorch Lion": (lambda weights, decay: lion_pytorch.Lion(weights, lr=1e-3, weight_decay=decay), False),
}


def trained(make, dtype, decay):
    """The matrices of the layers of a small model after 40 steps."""
    torch.manual_seed(0)
    model = Exaone4ForCausalLM(Exaone4Config(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True, sliding_window=8,
        layer_types=["sliding_attention"] * 3 + ["full_attention"], bos_token_id=1, eos_token_id=2,
        pad_token_id=0)).to(dtype)
    matrices = [weights for weights in model.model.layers.parameters() if weights.ndim == 2]
    optimizer = make(matrices, decay)
    for _ in range(40):
        row = torch.randint(3, 64, (4, 16))
        model(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        model.zero_grad()
    return matrices


def left(make, dtype, decay):
    """The share of the first weights that is left after 1000 steps of random gradients."""
    torch.manual_seed(0)
    start = torch.randn(128, 128) * 0.02
    weights = torch.nn.Parameter(start.to(dtype, copy=True))
    optimizer = make([weights], decay)
    for _ in range(1000):
        weights.grad = torch.randn(128, 128).to(dtype)
        optimizer.step()
    return ((weights.detach().float() * start).sum() / start.square().sum()).item()


print(*(f"{name} {version(name)}" for name in ("torch", "torch-optimi", "lion-pytorch")))
every = torch.arange(128, 256).bfloat16()  # each bfloat16 number is one of these, times a power of two
assert torch.equal(every.clone().mul_(1 - 0.0019), every) and not torch.equal(every.clone().mul_(1 - 0.002), every)

for name, (make, acts) in KINDS.items():
    for dtype in (torch.float32, torch.bfloat16):
        pairs = list(zip(trained(make, dtype, 0.1), trained(make, dtype, 0.0)))
        same = sum(torch.equal(*pair) for pair in pairs)
        print(f"{name}, {dtype}: {same} of {len(pairs)} matrices are the same with decay 0.1 and with none")
        assert same == (0 if acts or dtype is torch.float32 else len(pairs)), "the behaviour has changed"

for name in ("torch AdamW", "torch AdamW, fused", "optimi AdamW"):
    make, acts = KINDS[name]
    shares = {(dtype, decay): left(make, dtype, decay)
              for dtype in (torch.float32, torch.bfloat16) for decay in (0.0, 0.5)}
    print(name, {f"{dtype}, decay {decay}": round(share, 3) for (dtype, decay), share in shares.items()})
    assert 0.57 < shares[torch.float32, 0.5] < 0.63 and shares[torch.float32, 0.0] > 0.96
    assert (0.57 < shares[torch.bfloat16, 0.5] < 0.63) if acts else (
        shares[torch.bfloat16, 0.5] == shares[torch.bfloat16, 0.0] > 0.96), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
