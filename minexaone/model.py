"""EXAONE 4.0 in one file: from token ids to logits.

The architecture of LG AI Research's "EXAONE 4.0" report (arXiv:2507.11407), section 2.1: grouped-query attention
with per-head QK-norm, norms on the output of each block instead of its input, SwiGLU, and (32B) three
sliding-window layers for every global one. The sections follow the order in which they are best learnt.

Shapes in comments: B batch, T new tokens, K keys, H query heads, KV key/value heads, D head size.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minexaone.checks import check_config
from minexaone.config_json import DTYPES, LLAMA3, SLIDING, config_values, pattern_of, read_config, read_sampling
from minexaone.files import HEADS, CheckpointError, few, read_tensor, resolve, weight_files, write_json, write_tensors
from minexaone.generation import generate, stream
from minexaone.gguf_file import gguf_weights
from minexaone.linear.formats import packed_layers
from minexaone.linear.packed import Packed, tied_head
from minexaone.linear.writing import quantized_tensors, saved_form

# ---------------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True)
class Config:
    """The shape of a model, with the names of the published config.json. Lengths and windows are in tokens.

    Raises `CheckpointError` naming the key, its value and what was expected.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_types: list[str]  # SLIDING or GLOBAL for every layer
    sliding_window: int | None = None  # None: no layer slides, and every layer has RoPE
    rope_theta: float = 1e6
    rope_scaling: dict | None = None  # None, or {"rope_type": "llama3", "factor": ...}
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] = 361
    initializer_range: float = 0.02
    dtype: str = "float32"

    def __post_init__(self):
        check_config(self)

    @property
    def stop_ids(self) -> list[int]:
        """The ids that end a reply."""
        return self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]

    def window(self, layer: int) -> int | None:
        """How many tokens a query of this layer sees, its own included; None: all up to its own."""
        return self.sliding_window if self.layer_types[layer] == SLIDING else None

    def has_rope(self, layer: int) -> bool:
        """The global layers of a hybrid model carry no position (NoPE); without a window every layer has RoPE."""
        return self.sliding_window is None or self.layer_types[layer] == SLIDING

    @classmethod
    def from_dict(cls, raw: dict) -> "Config":
        """From a published config.json, in its older or its newer form."""
        try:
            return cls(**config_values(raw))
        except CheckpointError as error:
            raise CheckpointError(f"config.json: {error}") from None

    def to_dict(self) -> dict:
        """The published config.json, in the form that older and newer versions of transformers both read."""
        values = {"architectures": ["Exaone4ForCausalLM"], "model_type": "exaone4", "hidden_act": "silu"} | asdict(self)
        return values | {"sliding_window_pattern": self.sliding_window and pattern_of(self.layer_types)}  # for mlx-lm


# ---------------------------------------------------------------------------------------------------- RMSNorm


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension; the mean is taken in float32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.type_as(x)


# ----------------------------------------------------------------------------------------------------- SwiGLU


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)), hidden_size → intermediate_size → hidden_size."""

    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


# ------------------------------------------------------------------------------------------------------- RoPE


def rope_frequencies(config: Config) -> Tensor:
    """Radians per token of every rotated pair, float32 [D / 2], with llama3 scaling if the config asks for it.

    Pairs whose wavelength exceeds original / low_freq_factor are slowed down by `factor`, pairs shorter than
    original / high_freq_factor are kept, and those between are blended.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    if config.rope_scaling is None:
        return frequencies
    factor, low, high, original = (config.rope_scaling[key] for key in LLAMA3)
    wavelengths = 2 * math.pi / frequencies
    kept = ((original / wavelengths - low) / (high - low)).clamp(0, 1)  # 1: unchanged, 0: divided by factor
    return frequencies * ((1 - kept) / factor + kept)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pair (i, i + D/2) of x [..., T, H, D] by its angle; cos and sin are [..., T, 1, D/2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


# -------------------------------------------------------------------------------------------------- attention

BLOCK = 512  # queries per mask: a mask is BLOCK × keys for each query head of a group, never time × time


def attention(q: Tensor, k: Tensor, v: Tensor, q_pos: Tensor, k_pos: Tensor | None, window: int | None) -> Tensor:
    """Causal grouped-query attention, masked by the tokens' positions alone; returns [B, H, T, D].

    q [B, H, T, D]; k, v [B, KV, K, D], in which the key of query t stands in column K - T + t or earlier;
    q_pos [B, T] and k_pos [B, K], or [T] and [K] if no row has padding: the tokens' positions, negative for padding
    and for empty cache slots. Query i sees key j if 0 <= j <= i and, with a window, i - window < j. k_pos None: every
    query sees every key.
    """
    (B, H, T, D), (KV, K) = q.shape, k.shape[1:3]
    if q_pos.dim() == 1 and (window is None or K <= window):  # no padding, and nothing has left the window
        if T == K:  # the start of a text
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if T > 1 and q.is_cuda:  # its continuation, for which only CUDA has a kernel without a mask
            from torch.nn.attention.bias import causal_lower_right  # slow to import

            return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(T, K), enable_gqa=True)
    out = []
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        # Leave out the keys behind the block and, where the whole window is among the new tokens, those before it.
        seen = slice(K - T + start - window + 1 if window and start >= window else 0, K - T + end)
        mask = None
        if k_pos is not None:
            i, j = q_pos[..., start:end, None], k_pos[..., None, seen]
            mask = (0 <= j) & (j <= i)  # [B, end - start, keys], without B if no row has padding
            if window is not None:
                mask &= i - window < j
            mask |= i < 0  # padding sees everything: some kernels return NaN for a query that sees nothing
            mask = mask.view(-1, *mask.shape[-2:]).repeat(1, H // KV, 1)[:, None]
        # The H / KV query heads that share a key head are just more queries of the same keys.
        queries = q[:, :, start:end].reshape(B, KV, -1, D)
        block = F.scaled_dot_product_attention(queries, k[:, :, seen], v[:, :, seen], attn_mask=mask)
        out.append(block.reshape(B, H, end - start, D))
    return torch.cat(out, dim=2)


class Attention(nn.Module):
    """Grouped-query attention with RMSNorm on every head's q and k before RoPE (the QK of QK-Reorder-Norm)."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.window, self.has_rope = config.window(layer), config.has_rope(layer)
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Callable) -> Tensor:
        """x [..., T, hidden_size]; rope: cos and sin, each [..., T, 1, D / 2].

        attend(self, q, k, v) says who looks at whom, and what is kept for later: that is the caller's business. It gets
        q [..., T, H, D] and k, v [..., T, KV, D], and returns [..., T, H, D].
        """
        q = self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.head_dim)))  # [..., T, H, D]
        k = self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.head_dim)))  # [..., T, KV, D]
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        if self.has_rope:
            q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        return self.o_proj(attend(self, q, k, v).flatten(-2))


# --------------------------------------------------------------------------------------------------- KV cache


class KVCache:
    """The keys and values of the tokens seen so far, or of as many as a layer can still see.

    The token at position p lives in slot p mod size. A global layer's size grows (by doubling, or at once to
    `max_length` tokens). A sliding layer's stops at its window: there a new token takes the slot of the one that
    has just left the window; with `spare` slots more it stays for so many tokens, and these can be taken back
    (`rewind`). Use it under `torch.inference_mode()`, or it keeps the graph of every step.

    Rows may differ in length. After [a b c d] and [· · e f], with two padding tokens, columns is 4, length is
    [[4], [2]], the positions are [0 1 2 3] and [-1 -1 0 1], and e lies in slot 0 of its row, as a in slot 0 of its.
    """

    def __init__(self, config: Config, max_length: int = 0, spare: int = 0):
        self.windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
        self.max_length, self.spare = max_length, spare
        self.keys: list[Tensor | None] = [None] * config.num_hidden_layers  # each [B, KV, size, D]
        self.values: list[Tensor | None] = [None] * config.num_hidden_layers
        self.columns = 0  # tokens fed to each row, with padding
        self.past = self.length = 0  # tokens in each row, before and with the newest chunk; [B, 1] once padding came
        self.longest = 0  # length before any rewind: so far, slots have been written

    def extend(self, T: int, mask: Tensor | None, device: torch.device) -> Tensor:
        """Count T new tokens; return their positions: [T], or [B, T] with -1 for padding once padding came."""
        self.columns, self.past = self.columns + T, self.length
        if mask is None and isinstance(self.past, int):
            self.length = self.past + T
            return torch.arange(self.past, self.length, device=device)
        if mask is None:
            mask = torch.ones(len(self.past), T, dtype=torch.long, device=device)
        self.length = self.past + mask.sum(1, keepdim=True)
        return (self.past + mask.cumsum(1) - 1).masked_fill(mask == 0, -1)

    def update(self, layer: int, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store k, v [B, KV, T, D]; return what these T queries may look at: keys, values, positions.

        Positions None: every query sees all of them.
        """
        T = k.shape[2]
        keys, values = self.room(layer, k)
        size = keys.shape[2]
        # A chunk in a ring would overwrite keys that its first queries still see: look first, store afterwards.
        window = self.windows[layer]
        look_first = window is not None and T > 1
        used = min(self.columns - T if look_first else self.columns, size)
        if not look_first:
            self._store(keys, values, k, v, positions)
            if T == 1 and positions.dim() == 1 and (window is None or used <= window):
                return keys[:, :, :used], values[:, :, :used], None
        slots = torch.arange(used, device=k.device)
        last = (self.past if look_first else self.length) - 1
        k_pos = last - (last - slots) % size  # the newest position <= last of each slot; negative if it is empty
        if look_first:
            seen = (torch.cat((keys[:, :, :used], k), 2), torch.cat((values[:, :, :used], v), 2),
                    torch.cat((k_pos.expand(*positions.shape[:-1], -1), positions), -1))
            self._store(keys, values, k, v, positions)
            return seen
        return keys[:, :, :used], values[:, :, :used], k_pos

    def room(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's tensors, enlarged if the newest tokens need it."""
        size = 0 if self.keys[layer] is None else self.keys[layer].shape[2]
        limit = self.windows[layer] + self.spare if self.windows[layer] else math.inf
        needed = min(max(self.columns, self.max_length), limit)
        if size < needed:
            B, KV, _, D = like.shape
            new_size = min(max(needed, 2 * size), limit)
            for store in (self.keys, self.values):
                old, store[layer] = store[layer], like.new_zeros(B, KV, new_size, D)  # not empty: no NaN behind a mask
                if size:
                    store[layer][:, :, :size] = old
        return self.keys[layer], self.values[layer]

    @staticmethod
    def _store(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, positions: Tensor):
        """Put each token into its slot; of more tokens than slots, the last ones."""
        size = keys.shape[2]
        if positions.dim() == 1:
            slots = positions[-size:] % size
            keys.index_copy_(2, slots, k[:, :, -size:])
            values.index_copy_(2, slots, v[:, :, -size:])
        else:
            stays = (positions >= 0) & (positions > positions.amax(1, keepdim=True) - size)
            rows, columns = stays.nonzero(as_tuple=True)
            slots = positions[rows, columns] % size
            keys[rows, :, slots], values[rows, :, slots] = k[rows, :, columns], v[rows, :, columns]

    def rewind(self, length: int | Tensor):
        """Take back all but the first `length` tokens of each row ([B, 1] if rows differ); others may follow.

        ValueError, and the cache as it was, if a ring has lost what the next token would see, as it may have after more
        than `spare` tokens.
        """
        longest = torch.maximum(torch.as_tensor(self.longest), torch.as_tensor(self.length))
        for window, keys in zip(self.windows, self.keys, strict=True):
            size = 0 if keys is None else keys.shape[2]
            if window and ((longest > size) & (longest - length > size - window + 1)).any():
                raise ValueError(f"a window of {window:,} tokens and {size - window:,} spare ones have moved on too "
                                 "far to go back there: read the text anew, or give the cache more spare slots")
        self.longest, self.past, self.length = longest, length, length
        self.columns = int(torch.as_tensor(length).max())

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return sum(tensor.nbytes for tensor in self.keys + self.values if tensor is not None)


def cache_bytes(config: Config, length: int, itemsize: int = 2) -> int:
    """Bytes of cache for one row of `length` tokens: 2 · KV · D · itemsize for each token that each layer keeps.

    32B shape at 131,072 tokens in bf16: 16 global layers keep all, 48 sliding ones 4,096: 9.4 GB, against
    34.4 GB if all layers were global.
    """
    kept = sum(min(length, config.window(layer) or length) for layer in range(config.num_hidden_layers))
    return 2 * config.num_key_value_heads * config.head_dim * itemsize * kept


# ------------------------------------------------------------------------------------- the layer and the model


class DecoderLayer(nn.Module):
    """QK-Reorder-Norm: no norm on a block's input, one on its output, before the residual is added."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Callable) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(x, rope, attend))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Exaone4(nn.Module):
    """The EXAONE 4.0 language model."""

    generate, stream = generate, stream  # the functions of generation.py, as methods
    config_class = Config  # a subclass with another head has more to configure
    body = "model"  # in a checkpoint, what the names of all but the head begin with

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        # Not nn.Embedding(...): on the meta device its initialisation imports the compiler, which takes a second.
        self.embed_tokens = nn.Embedding.from_pretrained(
            torch.empty(config.vocab_size, config.hidden_size), freeze=False)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None  # tied: the embedding is the head
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.frequencies = rope_frequencies(config)  # no buffer: model.to(bfloat16) must leave it in float32
        self.sampling = {"do_sample": False}  # advice for generation_config.json: a new model answers greedily
        self.form = "compressed-tensors"  # in which packed layers are saved
        self.fast = None  # what `minexaone.fast.speed_up` generates with instead
        for parameter in self.parameters():
            if parameter.dim() == 2 and not parameter.is_meta:
                nn.init.normal_(parameter, std=config.initializer_range)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    def forward(self, input_ids: Tensor, cache: KVCache | None = None, attention_mask: Tensor | None = None,
                logits_to_keep: int = 0) -> Tensor:
        """Logits [B, T, vocab_size] of the token after each of input_ids [B, T].

        cache: holds the tokens before these, and takes these in. attention_mask [B, T], for these tokens alone: 1, or
        0 for padding, which may stand left or right of a row's tokens. The logits of padding mean nothing.
        logits_to_keep: compute only the last n columns; 0 means all.
        """
        if attention_mask is not None:
            attention_mask = attention_mask.long()
            if attention_mask.shape != input_ids.shape or (F.pad(attention_mask, (1, 0)).diff() > 0).sum(1).gt(1).any():
                raise ValueError("attention_mask must have the shape of input_ids and one run of ones in each row")
            attention_mask = None if attention_mask.all() else attention_mask
        positions = (KVCache(self.config) if cache is None else cache).extend(
            input_ids.shape[1], attention_mask, input_ids.device)

        def attend(attn, q, k, v):
            q, k, v, k_pos = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), positions
            if cache is not None:
                k, v, k_pos = cache.update(attn.layer, k, v, positions)
            return attention(q, k, v, positions, k_pos, attn.window).transpose(1, 2)

        return self.head(self.hidden_states(input_ids, positions, attend, logits_to_keep))

    def hidden_states(self, input_ids: Tensor, positions: Tensor, attend: Callable, keep: int = 0) -> Tensor:
        """What the head reads of input_ids [..., T] at positions [..., T]: [..., T, hidden_size].

        attend: see `Attention`. keep: only of the last n tokens; 0 means all.
        """
        x = self.embed_tokens(input_ids)
        self.frequencies = self.frequencies.to(x.device)
        angles = positions[..., None, None] * self.frequencies  # [..., T, 1, D / 2], float32
        rope = angles.cos().type_as(x), angles.sin().type_as(x)
        for layer in self.layers:
            x = layer(x, rope, attend)
        return self.norm(x[..., -keep:, :])  # -0 keeps all

    def head(self, x: Tensor) -> Tensor:
        """Logits [..., vocab_size] of hidden states [..., hidden_size]; a tied model's head is its embedding."""
        return F.linear(x, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(x)

    def new_cache(self, max_length: int = 0, spare: int = 0) -> KVCache:
        """An empty cache for this model, with room for `max_length` tokens from the start."""
        return KVCache(self.config, max_length, spare)

    # ------------------------------------------------------------------------ reading and writing checkpoints

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, dtype: str | torch.dtype = "auto",
                        device: str | torch.device = "auto", revision: str | None = None) -> "Exaone4":
        """Load a checkpoint in the published format.

        source: a folder, a GGUF file, or a hub id such as "LGAI-EXAONE/EXAONE-4.0-1.2B" (at `revision`: branch, tag or
        commit); None is the model shipped in assets/. dtype: "auto" is the checkpoint's own. device: see `pick_device`.
        Raises `CheckpointError` unless every tensor is used, every parameter filled and every shape right.
        """
        device, name = pick_device(device), str(dtype).removeprefix("torch.")
        if name not in ("auto", *DTYPES):  # known before a long download
            raise ValueError(f"dtype is {dtype!r}, expected auto, {', '.join(DTYPES)}")
        folder = resolve(source, revision)
        config = cls.config_class.from_dict(raw := read_config(folder))
        name = config.dtype if name == "auto" else name
        with torch.device("meta"):  # shapes without memory
            model = cls(replace(config, dtype=name))
        shapes = {published_name(key): tensor.shape for key, tensor in model.state_dict().items()}
        stored = gguf_weights(folder, shapes) if folder.is_file() else weight_files(folder, shapes)
        packed = packed_layers(raw, stored, shapes)  # takes what it reads out of stored
        if (given := stored.keys() | packed.keys()) != shapes.keys():
            missing, extra = sorted(shapes.keys() - given), sorted(given - shapes.keys())
            why = "they are not of one checkpoint, download both again"
            if any(key.startswith(HEADS) for key in extra):
                why = f"they are of {raw.get('architectures')!r:.80}: load it with that class of minexaone.heads"
            raise CheckpointError(f"{folder}: the weights do not fit config.json: missing {few(missing)}; not in the "
                                  f"model: {few(extra)}: {why}")
        # One tensor at a time goes straight to its device and dtype, so that the weights are never held twice; what is
        # quantized stays packed.
        state, dtype = {}, getattr(torch, name)
        for key, tensor in model.state_dict().items():
            if read_packed := packed.get(published_name(key)):
                matrix = read_packed(dtype if key.startswith("embed") else None)
                model.set_submodule(key.removesuffix(".weight"), matrix.to(device))
            else:
                state[key] = read_tensor(stored[published_name(key)], tensor.shape).to(device, dtype)
        model.load_state_dict(state, assign=True, strict=False)  # nothing is missing: see above
        if model.lm_head is None and isinstance(model.embed_tokens, Packed):
            model.lm_head = tied_head(model.embed_tokens)
        model.sampling, model.form = read_sampling(folder), saved_form(raw)
        return model.eval()

    def save_pretrained(self, folder: str | Path, form: str | None = None):
        """Write config.json, generation_config.json and model.safetensors, which transformers loads as well.

        form: in which packed layers are stored, see `quantized_tensors`; None is that of the checkpoint if it was
        GPTQ's, else compressed-tensors. `ValueError` for a packed embedding or what the form cannot hold, `OSError` on
        a full disk; every file is whole at every moment, old or new.
        """
        folder, dtype = Path(folder), str(self.embed_tokens.weight.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"a model of which the embedding is {dtype} cannot be saved: save it before `quantize`")
        config = replace(self.config, dtype=dtype)
        if config.sliding_window is not None and SLIDING not in config.layer_types:
            warnings.warn("a sliding_window in a model with global layers alone: here and in transformers they have no "
                          "RoPE then, in vLLM and llama.cpp they have; set sliding_window to None for RoPE everywhere",
                          stacklevel=2)
        tensors = {published_name(key, self.body): tensor for key, tensor in self.state_dict().items()}
        modules = {published_name(f"{name}.weight", self.body).removesuffix(".weight"): module
                   for name, module in self.named_modules()}
        quantized = {}
        if any(isinstance(module, Packed) for module in modules.values()):
            packed, quantized["quantization_config"] = quantized_tensors(modules, form or self.form)
            tensors = packed | {key: tensor for key, tensor in tensors.items()
                                if not isinstance(modules[key.rpartition(".")[0]], Packed)}
        write_tensors(folder / "model.safetensors", tensors, metadata={"format": "pt"})
        ids = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        write_json(folder / "generation_config.json", ids | self.sampling)
        write_json(folder / "config.json", config.to_dict() | quantized)


# -------------------------------------------------------------------------------------------------- utilities


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The one place that chooses: CUDA if there is one, else Apple's MPS, else the CPU."""
    here = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if (kind := str(device).split(":")[0]) not in ["auto", *here]:
        raise ValueError(f"device is {str(device)!r}, but PyTorch sees only {', '.join(here)} here: use that or auto")
    return torch.device(here[0] if kind == "auto" else device)


def published_name(key: str, body: str = "model") -> str:
    """The name that a parameter of `Exaone4` has in a published checkpoint, where all but a head stands in the body."""
    return key if key.startswith(HEADS) else f"{body}.{key}"
