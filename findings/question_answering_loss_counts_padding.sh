#!/usr/bin/env bash
# Guess: the loss of a question answering model of transformers does not depend on how far a text is padded, as long as
# attention_mask says what is padding: no token looks at it, and the loss of the other heads leaves it out as well.
#
# transformers 5.23.0: the softmax over the positions of the answer goes over all columns, padding included, and what
# stands there depends on attn_implementation besides: a query without a key gets 0 by sdpa, the mean of all by eager.
# Seen, with one text of 23 tokens and random weights: 2.895 alone; padded on the right to 50 and to 200 tokens 4.092 and
# 5.820 by sdpa, 3.520 and 5.544 by eager; on the left 4.696 and 6.377, 3.506 and 5.952.
# logits.masked_fill(mask == 0, -inf) before a loss of one's own leaves padding out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.23.0
cat > "$folder/check.py" <<'PYTHON'
import torch
import torch.nn.functional as F
import transformers
from transformers import Exaone4Config, Exaone4ForQuestionAnswering

torch.manual_seed(0)
model = Exaone4ForQuestionAnswering(Exaone4Config(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=8, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, sliding_window=8, pad_token_id=0,
    layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 2, rope_parameters={"rope_theta": 1e6})).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
ids, start, end = torch.randint(3, 96, (1, 23)), 10, 12
loss = {}
for side in ("right", "left"):
    for kind in ("sdpa", "eager"):
        model.set_attn_implementation(kind)
        for more in (0, 27, 177):
            pad = (0, more) if side == "right" else (more, 0)
            first = 0 if side == "right" else more
            with torch.no_grad():
                loss[side, kind, more] = model(
                    F.pad(ids, pad), attention_mask=F.pad(torch.ones_like(ids), pad),
                    start_positions=torch.tensor([first + start]), end_positions=torch.tensor([first + end])).loss.item()
for (side, kind, more), value in loss.items():
    print(f"transformers {transformers.__version__}, {kind:5}, {more:3} tokens of padding on the {side:5}: loss {value:.3f}")
assert transformers.__version__ == "5.23.0"
alone = loss["right", "sdpa", 0]
assert all(value > alone + 0.1 for (_, _, more), value in loss.items() if more), "the behaviour has changed"
assert abs(loss["left", "sdpa", 27] - loss["left", "eager", 27]) > 0.01, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
