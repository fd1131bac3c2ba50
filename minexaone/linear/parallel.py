"""Tensor parallelism: a model over several devices, each of which holds a slice of every projection.

Attention heads, and the columns of the feed-forward network, need nothing of one another until `o_proj` and `down_proj`
add them up. So each process computes with its own, and two sums a layer over all processes make the result whole
(Shoeybi et al., "Megatron-LM", arXiv:1909.08053). The model's code does not change: PyTorch's `parallelize_module` puts
the sums behind the projections.
"""

import os

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

# Each process has some of a projection's outputs, or some of its inputs; of the head, some of the vocabulary.
OUTPUTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
INPUTS = ("self_attn.o_proj", "mlp.down_proj")


def all_processes(device: str | torch.device) -> DeviceMesh:
    """The processes that torchrun started, each with a device of this kind."""
    return init_device_mesh(torch.device(device).type, (int(os.environ["WORLD_SIZE"]),))


def tensor_parallel(model: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> nn.Module:
    """Leave in each process of a one-dimensional mesh its slice of an `Exaone4`, on the mesh's kind of device.

    Load the model on the CPU first (`device="cpu"`, dtype left out): its weights are then the mapped file, of which
    only the slices are read. dtype converts them. All processes call the model alike and get the same logits; where ids
    are drawn, give `generate` a seed. ValueError if something cannot be divided by the number of processes, or is
    packed.
    """
    config, count, device = model.config, mesh.size(), torch.device(mesh.device_type)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    sizes = {"attention heads": config.num_attention_heads, "key/value heads": config.num_key_value_heads,
             "feed-forward columns": config.intermediate_size, "entries of the vocabulary": config.vocab_size}
    for name, size in sizes.items():
        if size % count:
            raise ValueError(f"{size:,} {name} cannot be divided among {count} processes: start fewer")
    divided = {name: module for name, module in model.named_modules() if name.endswith((*OUTPUTS, *INPUTS, "lm_head"))}
    for name, module in divided.items():
        if type(module) is not nn.Linear:
            raise ValueError(f"{name} is a {type(module).__name__}, and only an nn.Linear can be divided: load the "
                             "checkpoint that is not quantized, or use one device")
    for name, module in model.named_modules():
        placement = Replicate() if name not in divided else Shard(1) if name.endswith(INPUTS) else Shard(0)
        for key, weight in module.named_parameters(recurse=False):
            setattr(module, key, nn.Parameter(part(weight.detach(), placement, mesh, device, dtype),
                                              requires_grad=weight.requires_grad))
    plan = {f"layers.*.{name}": ColwiseParallel() for name in OUTPUTS}
    plan |= {f"layers.*.{name}": RowwiseParallel() for name in INPUTS}
    plan |= {name: ColwiseParallel(output_layouts=Replicate()) for name in divided if name == "lm_head"}
    parallelize_module(model, mesh, plan, src_data_rank=None)
    for module in divided.values():  # those that a fast path may replace by its own
        module.parallel_hooks = module._forward_hooks.keys() | module._forward_pre_hooks.keys()
    return model


def part(weight: Tensor, placement: Shard | Replicate, mesh: DeviceMesh, device: torch.device,
         dtype: torch.dtype | None) -> Tensor:
    """This process's part of a weight [out, in], on the device; the whole weight where it is not divided."""
    if placement.is_replicate():
        return weight.to(device, dtype)
    mine = weight.chunk(mesh.size(), placement.dim)[mesh.get_local_rank()].to(device, dtype)
    return DTensor.from_local(mine.contiguous(), mesh, [placement], run_check=False)
