"""Documents of unequal length side by side in one row of tokens, without padding between and without attention across.

A document is a list of token ids with a weight for each token: how much predicting it counts (0 for a prompt's tokens,
1 for a reply's). Rows have one size, so that a GPU meets the same shapes at every step.
"""

import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minexaone.fast.varlen import varlen_attention
from minexaone.model import Exaone4, attention


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


def pack(documents, tokens: int, longest: int, rows: int | None = None, fits: int | None = None) -> list[Packed]:
    """Fill rows of `tokens` tokens with documents, the shortest first; what is left of a row is padding.

    longest: no document may be longer. rows: take documents from an endless source until so many rows are nearly full.
    fits: put the same documents into more rows of so many tokens each, where memory holds no more.
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
    filled, room, size = [], 0, min(tokens, fits or tokens)
    for document in taken:
        length = len(document.ids) - 1
        if length > room:
            filled.append([])
            room = size
        filled[-1].append(document)
        room -= length
    return [_pack_row(row, size) for row in (filled[:rows] if size == tokens else filled)]


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
        return varlen_attention(q, k, v, starts, starts, longest, longest, window)
    out = []
    for start, end in pairwise(starts.tolist()):
        if end > start:
            positions = torch.arange(end - start, device=q.device)
            part = (t[start:end].transpose(0, 1)[None] for t in (q, k, v))
            out.append(attention(*part, positions, positions, window)[0].transpose(0, 1))
    return torch.cat(out)


def target_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [N] of the targets, in float32, from logits [N, vocab_size]."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


class PackedModel(nn.Module):
    """An `Exaone4` that reads packed documents: log-probability of every target. Shares the model's weights.

    compiled: let `torch.compile` fuse the operations of a layer, for training on a GPU.
    """

    def __init__(self, model: Exaone4, compiled=False):
        super().__init__()
        self.model, self.logprobs = model, target_logprobs
        if compiled:  # in modules of our own around the same parameters, so that the caller's model stays as it is
            tensors = (*model.parameters(), *model.buffers())  # buffers: packed weights
            self.model = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
            for layer in self.model.layers:
                layer.forward = torch.compile(layer.forward)
            self.logprobs = torch.compile(target_logprobs)

    def forward(self, batch: Packed) -> Tensor:
        """Log-probabilities [N], float32."""
        def attend(attn, q, k, v):
            return packed_attention(q, k, v, batch.starts, batch.longest, attn.window)

        return self.logprobs(self.model.head(self.model.hidden_states(batch.ids, batch.positions, attend)),
                             batch.targets)


def likelihood_loss(logprobs: Tensor, batch: Packed) -> Tensor:
    """Minus the weighted sum of log-probabilities: the mean negative log-likelihood if a step's weights sum to 1."""
    return -(logprobs * batch.weights).sum()
