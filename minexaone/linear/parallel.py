"""Tensor parallelism: a model over several devices, each of which holds a slice of every projection.

Attention heads, and the columns of the feed-forward network, need nothing of one another until `o_proj` and `down_proj`
add them up. So each process computes with its own, and two sums a layer over all processes make the result whole
(Shoeybi et al., "Megatron-LM", arXiv:1909.08053). The model's code does not change: hooks do the sums. (PyTorch has
`parallelize_module` for that. Its distributed tensors cost a step of the shipped model 4.6 times the time on one CPU
core, and 12 times under `torch.inference_mode()`, since the plan of a product is made anew in each call there: torch
2.13.)
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

# Of the first, each process has some outputs; of the second, some inputs; of the head, some of the vocabulary.
OUTPUTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
INPUTS = ("self_attn.o_proj", "mlp.down_proj")
HEAD = "lm_head"


def all_processes(device: str | torch.device) -> DeviceMesh:
    """The processes that torchrun started, each with a device of this kind."""
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return init_device_mesh(torch.device(device).type, (int(os.environ["WORLD_SIZE"]),))


@torch.no_grad()
def tensor_parallel(model: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> nn.Module:
    """Leave in each process of a one-dimensional mesh its slice of an `Exaone4`, on the mesh's kind of device, to
    generate with, not to train or save. Returns the model.

    Load the model on the CPU first (`device="cpu"`, dtype left out): its weights are then the mapped file, of which
    only the slices are read. dtype converts them. All processes call the model alike and get the same logits; where ids
    are drawn, give `generate` a seed. ValueError, and the model as it was, if something cannot be divided by the number
    of processes, or is packed.
    """
    config, count, device = model.config, mesh.size(), torch.device(mesh.device_type)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    sizes = {"attention heads": config.num_attention_heads, "key/value heads": config.num_key_value_heads,
             "feed-forward columns": config.intermediate_size, "entries of the vocabulary": config.vocab_size}
    for name, size in sizes.items():
        if size % count:
            raise ValueError(f"{size:,} {name} cannot be divided among {count} processes: start fewer")
    divided = {name: module for name, module in model.named_modules() if name.endswith((*OUTPUTS, *INPUTS, HEAD))}
    for name, module in divided.items():
        if type(module) is not nn.Linear:
            raise ValueError(f"{name} is a {type(module).__name__}, and only an nn.Linear can be divided: load the "
                             "checkpoint that is not quantized, or use one device")
    for name, module in model.named_modules():
        for weight in module.parameters(recurse=False):
            mine = weight.data
            if name in divided:
                mine = mine.chunk(count, dim=1 if name.endswith(INPUTS) else 0)[mesh.get_local_rank()]
            weight.data = mine.to(device, dtype).contiguous()
            weight.requires_grad_(False)
    for name, module in divided.items():
        module.out_features, module.in_features = module.weight.shape
        module.processes = mesh.get_group()
        if name.endswith((*INPUTS, HEAD)):
            module.register_forward_hook(joined if name.endswith(HEAD) else summed)
        module.parallel_hooks = set(module._forward_hooks)  # which a fast path may replace by its own
    model.register_state_dict_pre_hook(refuse)
    return model


def summed(module: nn.Linear, inputs: tuple, y: torch.Tensor) -> torch.Tensor:
    """Forward hook: y, to which the other processes' parts are added."""
    dist.all_reduce(y, group=module.processes)
    return y


def joined(module: nn.Linear, inputs: tuple, logits: torch.Tensor) -> torch.Tensor:
    """Forward hook: the whole vocabulary's logits [..., V] of the processes' slices."""
    parts = [torch.empty_like(logits) for _ in range(module.processes.size())]
    dist.all_gather(parts, logits.contiguous(), group=module.processes)
    return torch.cat(parts, -1)


def refuse(*_):
    """State dict hook: a slice is no checkpoint."""
    raise ValueError("each process has only slices of this model: save it from one process that has not divided it")
