"""EXAONE 4.0 in one file: from token ids to logits, and from logits to text.

The architecture of LG AI Research's "EXAONE 4.0" report (arXiv:2507.11407), section 2.1: grouped-query attention
with per-head QK-norm, norms on the output of each block instead of its input, SwiGLU, and (32B) three
sliding-window layers for every global one. The sections follow the order in which they are best learnt.

Shapes in comments: B batch, T new tokens, K keys, H query heads, KV key/value heads, D head size.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minexaone.checks import check_config, check_generation
from minexaone.config_json import DTYPES, LLAMA3, SLIDING, TOKEN_IDS, config_values, read_config, read_sampling
from minexaone.files import CheckpointError, few, read_tensor, resolve, weight_files, write_json, write_tensors

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
        return {"architectures": ["Exaone4ForCausalLM"], "model_type": "exaone4", "hidden_act": "silu"} | asdict(self)


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
    """Rotate pair (i, i + D/2) of x [B, H, T, D] by its angle; cos and sin are [B, 1, T, D/2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


# -------------------------------------------------------------------------------------------------- attention

PREFILL_CHUNK = 8192  # tokens of a prompt at once: bounds the memory of activations
BLOCK = 512  # queries per mask: a mask is BLOCK × keys for each query head of a group, never time × time


def attention(q: Tensor, k: Tensor, v: Tensor, q_pos: Tensor, k_pos: Tensor | None, window: int | None) -> Tensor:
    """Causal grouped-query attention, masked by the tokens' positions alone; returns [B, H, T, D].

    q [B, H, T, D]; k, v [B, KV, K, D], of which column K - T + t or one before it holds the key of query t;
    q_pos [B, T] and k_pos [B, K], or [T] and [K] if no row has padding: the tokens' positions, negative for padding
    and for empty cache slots. Query i sees key j if 0 <= j <= i and, with a window, i - window < j. k_pos None: every
    query sees every key.
    """
    (B, H, T, D), (KV, K) = q.shape, k.shape[1:3]
    if T == K and q_pos.dim() == 1 and (window is None or T <= window):  # the start of a text: plain causal attention
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
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

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], positions: Tensor, cache: "KVCache | None") -> Tensor:
        B, T, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, -1, self.head_dim)).transpose(1, 2)  # [B, H, T, D]
        k = self.k_norm(self.k_proj(x).view(B, T, -1, self.head_dim)).transpose(1, 2)  # [B, KV, T, D]
        v = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)
        if self.has_rope:
            q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        k_pos = positions
        if cache is not None:
            k, v, k_pos = cache.update(self.layer, k, v, positions)
        out = attention(q, k, v, positions, k_pos, self.window)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, -1))


# --------------------------------------------------------------------------------------------------- KV cache


class KVCache:
    """The keys and values of the tokens seen so far, or of as many as a layer can still see.

    The token at position p lives in slot p mod size. A global layer's size grows (by doubling, or at once to
    `max_length` tokens). A sliding layer's stops at its window: there a new token takes the slot of the one that
    has just left the window. Use it under `torch.inference_mode()`, or it keeps the graph of every step.

    Rows may differ in length. After [a b c d] and [· · e f], with two padding tokens, columns is 4, length is
    [[4], [2]], the positions are [0 1 2 3] and [-1 -1 0 1], and e lies in slot 0 of its row, as a in slot 0 of its.
    """

    def __init__(self, config: Config, max_length: int = 0):
        self.windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
        self.max_length = max_length
        self.keys: list[Tensor | None] = [None] * config.num_hidden_layers  # each [B, KV, size, D]
        self.values: list[Tensor | None] = [None] * config.num_hidden_layers
        self.columns = 0  # tokens fed to each row, with padding
        self.past = self.length = 0  # tokens in each row, before and with the newest chunk; [B, 1] once padding came

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
        """Store k, v [B, KV, T, D]; return all that these T queries may look at: keys, values and positions."""
        T = k.shape[2]
        keys, values = self._room(layer, k)
        size = keys.shape[2]
        # A chunk in a ring would overwrite keys that its first queries still see: look first, store afterwards.
        look_first = self.windows[layer] is not None and T > 1
        used = min(self.columns - T if look_first else self.columns, size)
        if not look_first:
            self._store(keys, values, k, v, positions)
            if T == 1 and positions.dim() == 1:
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

    def _room(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's tensors, enlarged if the newest tokens need it."""
        size = 0 if self.keys[layer] is None else self.keys[layer].shape[2]
        limit = self.windows[layer] or math.inf
        if size < min(self.columns, limit):
            B, KV, _, D = like.shape
            new_size = min(max(self.columns, self.max_length, 2 * size), limit)
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

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], positions: Tensor, cache: KVCache | None) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(x, rope, positions, cache))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Exaone4(nn.Module):
    """The EXAONE 4.0 language model."""

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
        x = self.embed_tokens(input_ids)  # [B, T, hidden_size]
        self.frequencies = self.frequencies.to(x.device)
        angles = positions.view(-1, 1, input_ids.shape[1], 1) * self.frequencies  # [B or 1, 1, T, D / 2], float32
        rope = angles.cos().type_as(x), angles.sin().type_as(x)
        for layer in self.layers:
            x = layer(x, rope, positions, cache)
        x = self.norm(x[:, -logits_to_keep:])  # -0 keeps all
        return F.linear(x, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(x)

    # ------------------------------------------------------------------------ reading and writing checkpoints

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, dtype: str | torch.dtype = "auto",
                        device: str | torch.device = "auto", revision: str | None = None) -> "Exaone4":
        """Load a checkpoint in the published format.

        source: a folder, or a hub id such as "LGAI-EXAONE/EXAONE-4.0-1.2B" (at `revision`: branch, tag or commit);
        None is the model shipped in assets/. dtype: "auto" is the checkpoint's own. device: see `pick_device`.
        Raises `CheckpointError` unless every tensor is used, every parameter filled and every shape right.
        """
        device, name = pick_device(device), str(dtype).removeprefix("torch.")
        if name not in ("auto", *DTYPES):  # known before a long download
            raise ValueError(f"dtype is {dtype!r}, expected auto, {', '.join(DTYPES)}")
        folder = resolve(source, revision)
        config = Config.from_dict(read_config(folder))
        name = config.dtype if name == "auto" else name
        with torch.device("meta"):  # shapes without memory
            model = cls(replace(config, dtype=name))
        shapes = {published_name(key): tensor.shape for key, tensor in model.state_dict().items()}
        stored = weight_files(folder, shapes)
        if stored.keys() != shapes.keys():
            missing, extra = sorted(shapes.keys() - stored.keys()), sorted(stored.keys() - shapes.keys())
            raise CheckpointError(f"{folder}: the weights do not fit config.json: missing {few(missing)}; not in the "
                                  f"model: {few(extra)}: they are not of one checkpoint, download both again")
        # One tensor at a time goes straight to its device and dtype, so that the weights are never held twice.
        state = {}
        for key, tensor in model.state_dict().items():
            state[key] = read_tensor(stored[published_name(key)], tensor.shape).to(device, getattr(torch, name))
        model.load_state_dict(state, assign=True)
        model.sampling = read_sampling(folder)
        return model.eval()

    def save_pretrained(self, folder: str | Path):
        """Write config.json, generation_config.json and model.safetensors, which transformers loads as well.

        `ValueError` for a model in 8 bits, `OSError` on a full disk; every file is whole at every moment, old or new.
        """
        folder, dtype = Path(folder), str(self.embed_tokens.weight.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"a model of which the weights are {dtype} cannot be saved: save it before `quantize`")
        config = replace(self.config, dtype=dtype)
        if config.sliding_window is not None and SLIDING not in config.layer_types:
            warnings.warn("a sliding_window in a model with global layers alone: here and in transformers they have no "
                          "RoPE then, in vLLM and llama.cpp they have; set sliding_window to None for RoPE everywhere",
                          stacklevel=2)
        tensors = {published_name(key): tensor for key, tensor in self.state_dict().items()}
        write_tensors(folder / "model.safetensors", tensors, metadata={"format": "pt"})
        write_json(folder / "generation_config.json", {key: getattr(config, key) for key in TOKEN_IDS} | self.sampling)
        write_json(folder / "config.json", config.to_dict())

    # ------------------------------------------------------------------------------------------------ generation

    def generate(self, prompts: Sequence[int] | Sequence[Sequence[int]], **options) -> list[int] | list[list[int]]:
        """The new ids of one prompt, or of each in a batch of unequal lengths; options as in `stream`.

        Every row is what it would be alone, up to rounding; with a seed, row n draws as `stream(..., seed=seed + n)`.
        """
        prompts = prompts.tolist() if hasattr(prompts, "tolist") else prompts  # tensors and arrays
        single = len(prompts) > 0 and isinstance(prompts[0], int)
        steps = list(self._steps([prompts] if single else prompts, **options))
        rows = [[token for token in row if token is not None] for row in zip(*steps, strict=True)]
        return rows[0] if single else rows

    def stream(self, prompt: Sequence[int], **options) -> Iterator[int]:
        """Yield the ids that follow `prompt` as they are drawn, the stop id included.

        max_new_tokens: how many at most (256). temperature: 0 is greedy (0). top_k: sample from the k likeliest; 0 is
        all (0). top_p: and of these from the fewest that reach this probability (1). presence_penalty: subtracted once
        from the logit of every id already generated (0). seed: an integer makes the draws repeatable (None).
        stop_ids: end after one of these (the checkpoint's). reasoning_budget: after so many ids without
        `think_end_id`, `close_ids` are written, which close the thinking, and the answer follows (None: no limit).
        Raises ValueError for a prompt or an option that cannot be used.
        The sampling options are as vLLM and the OpenAI API define them.
        """
        for (token,) in self._steps([prompt], **options):
            yield token

    @torch.inference_mode()
    def _steps(self, prompts, max_new_tokens=256, temperature=0.0, top_k=0, top_p=1.0, presence_penalty=0.0, seed=None,
               stop_ids=None, reasoning_budget=None, think_end_id=None, close_ids=()) -> Iterator[list[int | None]]:
        """Yield one id for each row, None for rows that have ended."""
        check_generation(self.config, prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
                         top_p=top_p, presence_penalty=presence_penalty, seed=seed, reasoning_budget=reasoning_budget)
        if reasoning_budget is not None and (think_end_id is None or not close_ids):
            raise ValueError("reasoning_budget needs think_end_id and close_ids: the ids that end the thinking")
        B, width, V = len(prompts), max(map(len, prompts)), self.config.vocab_size
        room = [min(max_new_tokens, self.config.max_position_embeddings - len(prompt)) for prompt in prompts]
        stop_ids = set(self.config.stop_ids if stop_ids is None else stop_ids)
        # One uniform number per row and step decides each draw, the same on every device and for every batch.
        seed = torch.Generator().seed() % 2**62 if seed is None else seed
        draws = torch.stack([torch.rand(max(room), generator=torch.Generator().manual_seed(seed + row))
                             for row in range(B)]).to(self.device)
        prompt = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        cache, forward = KVCache(self.config, max_length=width + max(room)), self.fast or self
        for start in range(0, width, chunk := self.fast.prefill_chunk if self.fast else PREFILL_CHUNK):
            part = slice(start, start + chunk)
            logits = forward(prompt[:, part], cache, mask[:, part], logits_to_keep=1)
        ids = torch.zeros(B, 1, dtype=torch.long, device=self.device)  # the newest of each row
        generated, draw = torch.zeros(B, V, dtype=torch.bool, device=self.device), torch.zeros_like(ids)

        def choose(logits):
            logits = logits[:, -1] - presence_penalty * generated if presence_penalty else logits[:, -1]
            ids[:, 0] = sample(logits, draws.gather(1, draw)[:, 0], temperature, top_k, top_p)
            draw.add_(1)

        def step():  # touches tensors only, always the same ones, so that a fast path can record and replay it
            if presence_penalty:
                generated.scatter_(1, ids, True)
            choose(forward(ids, cache))

        step = self.fast.record(step, cache) if self.fast else step
        choose(logits)
        thinking, closing, running = [reasoning_budget is not None] * B, [iter(close_ids) for _ in prompts], [True] * B
        for n in range(max(room)):
            tokens = ids[:, 0].tolist()
            for row in range(B):
                if thinking[row] and n >= reasoning_budget:
                    forced = next(closing[row], None)
                    thinking[row] = forced is not None
                    if forced is not None:
                        tokens[row] = ids[row, 0] = forced
                elif tokens[row] == think_end_id:
                    thinking[row] = False
            yield [tokens[row] if running[row] else None for row in range(B)]
            running = [running[row] and tokens[row] not in stop_ids and n + 1 < room[row] for row in range(B)]
            if not any(running):
                return
            step()


def sample(logits: Tensor, draw: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Choose one id per row of logits [B, vocab_size] with uniform numbers draw [B] in [0, 1); returns [B].

    Order as in vLLM: temperature, then the top_k likeliest, then of what they hold the fewest ids that reach top_p.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs, ids = (logits.float() / temperature).softmax(-1), None
    if top_k or top_p < 1:
        probs, ids = probs.topk(min(top_k or math.inf, logits.shape[-1]))
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p * probs.sum(-1, keepdim=True), 0)
    cumulative = probs.cumsum(-1)
    limit = cumulative[:, -1:] * (1 - 2**-23)  # just below the sum, to which rounding must not lift a draw
    chosen = torch.searchsorted(cumulative, torch.minimum(draw[:, None] * cumulative[:, -1:], limit), right=True)
    return (chosen if ids is None else ids.gather(1, chosen))[:, 0]


# -------------------------------------------------------------------------------------------------- utilities


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The one place that chooses: CUDA if there is one, else Apple's MPS, else the CPU."""
    here = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if (kind := str(device).split(":")[0]) not in ["auto", *here]:
        raise ValueError(f"device is {str(device)!r}, but PyTorch sees only {', '.join(here)} here: use that or auto")
    return torch.device(here[0] if kind == "auto" else device)


def published_name(key: str) -> str:
    """The name that a parameter of `Exaone4` has in a published checkpoint."""
    return key if key.startswith("lm_head.") else f"model.{key}"
