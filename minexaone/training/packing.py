"""Documents of unequal length side by side in one row of tokens, without padding between and without attention across.

A document is a list of token ids with a weight for each token: how much predicting it counts (0 for a prompt's tokens,
1 for a reply's). Rows have one size, so that a GPU meets the same shapes at every step.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minexaone.model import Attention, DecoderLayer, Exaone4, apply_rope, attention


@dataclass
class Document:
    """ids and weights of equal length: weights[t] belongs to the prediction of ids[t], so that the first is unused.

    score: what a whole document counts for, as the advantage of a sampled reply, or 1 and -1 for chosen and rejected.
    """

    ids: list[int]
    weights: list[float]
    score: float = 0.0


@dataclass
class Packed:
    """N tokens of several documents. Prediction n is that of targets[n] from the tokens of its document up to n."""

    ids: Tensor  # [N]
    targets: Tensor  # [N]
    weights: Tensor  # [N], 0 where there is nothing to predict
    positions: Tensor  # [N], from 0 in each document
    documents: Tensor  # [N], the number of each token's document
    starts: Tensor  # [D + 1], int32: document d is tokens starts[d] to starts[d + 1]; the last ones are empty
    scores: Tensor  # [D]
    longest: int  # no document is longer
    count: int = 1  # of documents in all batches of a step, for losses that are means over documents
    old: Tensor | None = None  # [N], log-probabilities when the documents were sampled
    reference: Tensor | None = None  # [N], log-probabilities under the reference model

    def silenced(self) -> "Packed":
        """The same batch, in which nothing counts."""
        return replace(self, weights=torch.zeros_like(self.weights), scores=torch.zeros_like(self.scores))

    def per_document(self, values: Tensor) -> Tensor:
        """Sums [D] of values [N], each token weighted."""
        return values.new_zeros(len(self.scores)).index_add_(0, self.documents, values * self.weights)

    def to(self, device) -> "Packed":
        """The same on another device."""
        return Packed(*(value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
                        for value in vars(self).values()))


def pack(documents, tokens: int, longest: int, rows: int | None = None) -> list[Packed]:
    """Fill rows of `tokens` tokens with documents, the shortest first; what is left of a row is padding.

    longest: no document may be longer. rows: take documents from an endless source until so many rows are nearly full.
    """
    taken, total = [], 0
    for document in documents:
        length = len(document.ids) - 1
        if not 0 < length <= min(longest, tokens):
            raise ValueError(f"a document has {length + 1} tokens, expected 2 to {min(longest, tokens) + 1}")
        if rows and total + length > rows * tokens - (rows - 1) * longest // 2:
            break
        taken.append(document)
        total += length
    # Neighbours of about one length make rows in which attention kernels, started for the longest, find enough to do.
    taken.sort(key=lambda document: len(document.ids))
    filled, room = [], 0
    for document in taken:
        length = len(document.ids) - 1
        if length > room:
            filled.append([])
            room = tokens
        filled[-1].append(document)
        room -= length
    return [_pack_row(row, tokens) for row in filled[:rows]]


def _pack_row(row, tokens):
    lengths = [len(document.ids) - 1 for document in row]
    longest = 1 << (max(lengths) - 1).bit_length()  # few different numbers, for each is a reason to compile
    gap = tokens - sum(lengths)
    lengths += [longest] * (gap // longest) + [gap % longest] * (gap % longest > 0)  # padding, in documents of its own
    slots = 1 << (len(lengths) - 1).bit_length()
    sizes = torch.tensor(lengths + [0] * (slots - len(lengths)))
    starts = F.pad(sizes.cumsum(0), (1, 0))
    numbers = torch.repeat_interleave(torch.arange(slots), sizes)

    def row_of(values, dtype):
        values = torch.tensor([value for part in values for value in part], dtype=dtype)
        return F.pad(values, (0, tokens - len(values)))

    return Packed(
        ids=row_of((d.ids[:-1] for d in row), torch.long), targets=row_of((d.ids[1:] for d in row), torch.long),
        weights=row_of((d.weights[1:] for d in row), torch.float32),
        positions=torch.arange(tokens) - starts[numbers], documents=numbers, starts=starts.int(),
        scores=F.pad(torch.tensor([d.score for d in row], dtype=torch.float32), (0, slots - len(row))), longest=longest)


# ---------------------------------------------------------------------------------------------- the forward pass


def packed_attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, window: int | None) -> Tensor:
    """Causal attention of q [N, H, D] and k, v [N, KV, D], each document to itself; returns [N, H, D]."""
    if q.is_cuda:
        # The operator behind torch.nn.attention.varlen.varlen_attn, whose arguments differ between versions.
        return torch.ops.aten._flash_attention_forward(
            q, k, v, starts, starts, longest, longest, 0.0, True, False,
            window_size_left=-1 if window is None else window - 1, window_size_right=0)[0]
    out = []
    for start, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        if end > start:
            positions = torch.arange(end - start, device=q.device)
            part = (t[start:end].transpose(0, 1)[None] for t in (q, k, v))
            out.append(attention(*part, positions, positions, window)[0].transpose(0, 1))
    return torch.cat(out)


def packed_layer(layer: DecoderLayer, x: Tensor, cos: Tensor, sin: Tensor, starts: Tensor, longest: int) -> Tensor:
    """`DecoderLayer.forward` for packed tokens x [N, hidden_size]."""
    x = x + layer.post_attention_layernorm(_attend(layer.self_attn, x, cos, sin, starts, longest))
    return x + layer.post_feedforward_layernorm(layer.mlp(x))


def _attend(attn: Attention, x, cos, sin, starts, longest):
    N = len(x)
    q = attn.q_norm(attn.q_proj(x).view(N, -1, attn.head_dim))  # [N, H, D]
    k = attn.k_norm(attn.k_proj(x).view(N, -1, attn.head_dim))  # [N, KV, D]
    v = attn.v_proj(x).view(N, -1, attn.head_dim)
    if attn.has_rope:
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    return attn.o_proj(packed_attention(q, k, v, starts, longest, attn.window).reshape(N, -1))


def target_logprobs(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [N] of the targets, in float32, from the last hidden states [N, hidden_size]."""
    return -F.cross_entropy(F.linear(x, head).float(), targets, reduction="none")


class PackedModel(nn.Module):
    """An `Exaone4` that reads packed documents: log-probability of every target. Shares the model's weights.

    compiled: let `torch.compile` fuse the operations of a layer, for training on a GPU.
    """

    def __init__(self, model: Exaone4, compiled=False):
        super().__init__()
        self.model = model
        self.layer = torch.compile(packed_layer) if compiled else packed_layer
        self.logprobs = torch.compile(target_logprobs) if compiled else target_logprobs

    def forward(self, batch: Packed) -> Tensor:
        """Log-probabilities [N], float32."""
        model = self.model
        x = model.embed_tokens(batch.ids)
        model.frequencies = model.frequencies.to(x.device)
        angles = batch.positions[:, None, None] * model.frequencies  # [N, 1, D / 2]
        cos, sin = angles.cos().type_as(x), angles.sin().type_as(x)
        for layer in model.layers:
            x = self.layer(layer, x, cos, sin, batch.starts, batch.longest)
        head = model.embed_tokens.weight if model.lm_head is None else model.lm_head.weight
        return self.logprobs(model.norm(x), head, batch.targets)


def likelihood_loss(logprobs: Tensor, batch: Packed) -> Tensor:
    """Minus the weighted sum of log-probabilities: the mean negative log-likelihood if a step's weights sum to 1."""
    return -(logprobs * batch.weights).sum()
