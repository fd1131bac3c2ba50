"""LoRA (arXiv:2106.09685): beside a frozen matrix W, dense or packed, two narrow ones learn.

    y = W x + scaling · B (A x),   A [rank, in], B [out, rank], scaling = alpha / rank

An adapter is the A and B of a model. Its folder has PEFT's form: adapter_config.json and adapter_model.safetensors.
"""

import math
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minexaone.files import (
    CheckpointError,
    few,
    is_there,
    read_json,
    read_tensor,
    resolve,
    tensors_in,
    write_json,
    write_tensors,
)
from minexaone.linear.packed import Packed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # what PEFT's two wrappers put before a name
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Keys of adapter_config.json that are done with once A and B are trained, or of which the tensors tell the truth. Any
# other one that is set, known or of a later version, may change what is computed.
HARMLESS = {"auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
            "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform",
            "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_version",
            "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type"}
READ = {"alpha_pattern", "init_lora_weights", "lora_alpha", "peft_type", "use_rslora"}
# PEFT's ways to begin that change W as well: an adapter that is saved as it stands belongs to that other W.
ANOTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
MERGE = "merge it into its base with peft (merge_and_unload, save_pretrained) and load that folder"


class LoRALinear(nn.Module):
    """A linear layer without bias, frozen, and its update; calls as the layer does.

    base: an `nn.Linear` or `PackedLinear`. A, B and what comes out of them are in float32, as in PEFT, until the model
    is converted. At first B is 0, and the module computes what its base does.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float):
        super().__init__()
        outputs, inputs = shape_of(base)
        device = base.weight.device
        self.base, self.alpha = base.requires_grad_(False), alpha
        self.lora_A = nn.Parameter(torch.empty(rank, inputs, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, dtype=torch.float32, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # uniform, of variance 1 / (3 inputs)
        self.register_state_dict_pre_hook(_refuse_state)

    @property
    def scaling(self) -> float:
        """Of the update."""
        return self.alpha / len(self.lora_A)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        y = self.base(x)
        update = F.linear(F.linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B)
        return (y + self.scaling * update).to(y.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base with the update added to its weight in float32, rounded once."""
        update = self.scaling * (self.lora_B.float() @ self.lora_A.float())
        weight = (self.base.weight.float() + update).to(self.base.weight.dtype)
        self.base.weight = nn.Parameter(weight, requires_grad=False)  # not in place: it may be a mapped file
        return self.base


def _refuse_state(module, prefix, keep_vars):
    """A state dict is what `save_pretrained` and all others take for a model's plain weights."""
    raise ValueError(f"{prefix[:-1]} has a LoRA adapter, which has no place among a model's weights: "
                     "save_adapter(model, folder) writes it, merge_lora(model) makes it part of them")


def shape_of(linear: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, dense or packed."""
    return tuple(linear.shape if isinstance(linear, Packed) else linear.weight.shape)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The projections of a model by name, those with an adapter included; ties are not: a tied head is no module."""
    inner = {f"{name}.base" for name in lora_layers(model)}
    kinds = (nn.Linear, LoRALinear, Packed)
    return {name: module for name, module in model.named_modules()
            if isinstance(module, kinds) and not name.startswith("embed") and name not in inner}


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The modules with an adapter by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def add_lora(model: nn.Module, rank: int = 16, alpha: float = 32, targets=TARGETS) -> nn.Module:
    """Put an adapter beside every projection whose name ends in one of `targets`, in place; only A and B learn.

    Begins by torch's random numbers. Returns the model. `ValueError` names a target that is not there or an option
    that cannot be.
    """
    if type(rank) is not int or rank < 1 or not 0 < alpha < math.inf:
        raise ValueError(f"rank is {rank!r} and alpha {alpha!r}, expected a whole number from 1, and more than 0")
    if have := lora_layers(model):
        raise ValueError(f"the model has an adapter already ({next(iter(have))}): merge_lora(model) first")
    found = {name: module for name, module in linear_layers(model).items()
             if any(f".{name}".endswith(f".{target}") for target in targets)}
    missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in found)]
    if missing or not found:
        kinds = sorted({name.rpartition(".")[2] for name in linear_layers(model)})
        raise ValueError(f"targets name {few(missing)}, expected some of {', '.join(kinds)}")
    model.requires_grad_(False)
    for name, module in found.items():
        model.set_submodule(name, LoRALinear(module, rank, alpha))
    return model


def merge_lora(model: nn.Module) -> nn.Module:
    """Make the adapter part of the weights, in place; returns the model, which is then as one without adapter.

    `ValueError` for packed weights, which cannot hold the sum: nothing is changed then.
    """
    layers = lora_layers(model)
    if packed := [name for name, module in layers.items() if isinstance(module.base, Packed)]:
        raise ValueError(f"{packed[0]} is packed in {layers[packed[0]].base.bits} bits, into which an adapter cannot "
                         "be merged: merge it into the unquantized model and quantize that, or run it unmerged, which "
                         "the clear path does")
    for name, module in layers.items():
        model.set_submodule(name, module.merged())
    return model


# ------------------------------------------------------------------------------------------------- PEFT's folder


def save_adapter(model: nn.Module, folder: str | Path, base: str | None = None):
    """Write the adapter of a model as PEFT does.

    base: the model's folder or hub id, for whoever loads the adapter. `ValueError` if there is no adapter, `OSError` on
    a full disk.
    """
    folder, layers = Path(folder), lora_layers(model)
    if not layers:
        raise ValueError("the model has no adapter to save: add_lora(model) first")
    names = {name: _published(name) for name in layers}
    ranks = {names[name]: len(module.lora_A) for name, module in layers.items()}
    alphas = {names[name]: _short(module.alpha) for name, module in layers.items()}
    (rank, _), = Counter(ranks.values()).most_common(1)
    (alpha, _), = Counter(alphas.values()).most_common(1)
    kinds = {name.rpartition(".")[2] for name in layers}
    everywhere = all(name in layers for name in linear_layers(model) if name.rpartition(".")[2] in kinds)
    write_tensors(folder / WEIGHTS, {f"{PREFIX}{names[name]}.{part}.weight": getattr(module, part)
                                     for name, module in layers.items() for part in ("lora_A", "lora_B")},
                  metadata={"format": "pt"})
    write_json(folder / CONFIG, {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": rank, "lora_alpha": alpha, "target_modules": sorted(kinds if everywhere else names.values()),
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "use_rslora": False, "use_dora": False, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "modules_to_save": None})


def load_adapter(model: nn.Module, source: str | Path) -> nn.Module:
    """Put an adapter of PEFT's form (a folder or hub id) beside a model's projections, in place; returns the model.

    Which modules it is for, and their ranks, the names and shapes of its tensors say; patterns that are regular
    expressions are never run. `CheckpointError` names what is missing, of another model, or more than LoRA on linear
    layers: then the model is as it was.
    """
    folder = resolve(source)
    config = _adapter_config(folder)
    if have := lora_layers(model):
        raise ValueError(f"the model has an adapter already ({next(iter(have))}): merge_lora(model) first")
    stored, linears = tensors_in(folder / WEIGHTS), {_published(name): name for name in linear_layers(model)}
    pairs = {}  # by published name of a module, its A and B
    for key, tensor in stored.items():
        name, _, part = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if not (key.startswith(PREFIX) and key.endswith(".weight")) or part not in ("lora_A", "lora_B"):
            raise CheckpointError(f"{folder / WEIGHTS} holds {key}, expected only lora_A.weight and lora_B.weight of "
                                  f"linear layers: {MERGE}")
        pairs.setdefault(name, {})[part] = tensor
    base = config.get("base_model_name_or_path")
    for_whom = f"it was made for {base}" if base else "it does not say for which model it was made"
    if unknown := sorted(pairs.keys() - linears.keys()):
        raise CheckpointError(f"{folder / WEIGHTS} adapts {few(unknown)}, which this model does not have ({for_whom})")
    if not pairs:
        raise CheckpointError(f"{folder / WEIGHTS} holds no tensor: download it again")
    read = {}
    for name, pair in pairs.items():
        outputs, inputs = shape_of(model.get_submodule(linears[name]))
        if len(pair) < 2:
            raise CheckpointError(f"{folder / WEIGHTS} has only {', '.join(pair)} of {name}: download it again")
        A, B = pair["lora_A"], pair["lora_B"]
        rank = A.shape[0] if A.shape else 0
        if not rank or [A.shape, B.shape] != [[rank, inputs], [outputs, rank]]:
            raise CheckpointError(f"{folder / WEIGHTS}: {name} is {A.shape} and {B.shape}, expected "
                                  f"[rank, {inputs}] and [{outputs}, rank] for this model ({for_whom})")
        read[linears[name]] = (_alpha(config, name, rank, folder), read_tensor(A, A.shape), read_tensor(B, B.shape))
    model.requires_grad_(False)
    for name, (alpha, A, B) in read.items():
        layer = LoRALinear(model.get_submodule(name), len(A), alpha)
        layer.lora_A.data.copy_(A)
        layer.lora_B.data.copy_(B)
        model.set_submodule(name, layer)
    return model


def _published(name: str) -> str:
    """The name of a module of `Exaone4` in a checkpoint."""
    return name if name == "lm_head" else f"model.{name}"


def _short(alpha: float) -> int | float:
    return int(alpha) if alpha == int(alpha) else alpha


def _adapter_config(folder: Path) -> dict:
    """adapter_config.json, if what it says can be computed here."""
    file = folder / CONFIG
    if not is_there(file):
        raise CheckpointError(f"{folder} holds no LoRA adapter: {CONFIG} is missing")
    config = read_json(file)
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object: download it again")
    if (kind := config.get("peft_type")) != "LORA":
        raise CheckpointError(f"{file}: peft_type is {kind!r:.80}, but only LORA can be loaded: {MERGE}")
    if more := sorted(key for key in config.keys() - HARMLESS - READ if config[key]):
        raise CheckpointError(f"{file}: {more[0]} is {config[more[0]]!r:.80}, which is more than plain LoRA: {MERGE}")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(ANOTHER_BASE):
        raise CheckpointError(f"{file}: init_lora_weights is {init!r:.80}, which changes the base as well: {MERGE}")
    return config


def _alpha(config: dict, name: str, rank: int, folder: Path) -> float:
    """The alpha of a module, such that its scaling is alpha / rank also where the adapter says alpha / sqrt(rank)."""
    alpha, patterns = config.get("lora_alpha", 8), config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{folder / CONFIG}: alpha_pattern is {patterns!r:.80}, expected names with numbers")
    for key in reversed(patterns):  # the first that fits counts
        if not all(part.isidentifier() or part.isdigit() for part in key.split(".")):
            raise CheckpointError(f"{folder / CONFIG}: alpha_pattern has {key!r:.80}, a regular expression, which is "
                                  "not run here: write the names of the modules instead")
        if f".{name}".endswith(f".{key}"):
            alpha = patterns[key]
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise CheckpointError(f"{folder / CONFIG}: the alpha of {name} is {alpha!r:.80}, expected a number")
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
