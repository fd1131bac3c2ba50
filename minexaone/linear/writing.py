"""Packed matrices written as other engines read them: GPTQ's form, and those of compressed-tensors.

A value v of ours, from -2^(bits - 1), is stored there as v + 2^(bits - 1), which is 0 or more; several in an int32, the
first in the lowest bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minexaone.config_json import quantization_details
from minexaone.linear.packed import Packed, unpack4

GPTQ = ("gptq", "gptq_v2")  # by their checkpoint_format: with zeros minus one, and as they are
FORMATS = (*GPTQ, "compressed-tensors", "int-quantized")
ONES = {4: 0x11111111, 8: 0x01010101}  # a 1 in each field of a word


def saved_form(raw: dict) -> str:
    """The form in which a checkpoint with this config.json is saved again: GPTQ's stay what they are."""
    details = quantization_details(raw)
    if details.get("quant_method") != "gptq":
        return "compressed-tensors"
    return "gptq_v2" if "gptq_v2" in (details.get("checkpoint_format"), details.get("format")) else "gptq"


def quantized_tensors(modules: dict[str, nn.Module], form: str) -> tuple[dict[str, Tensor], dict]:
    """(tensors by published name, quantization_config) for the `Packed` among a model's modules, by published name.

    form: "gptq" and "gptq_v2" store all linear layers in one way, with float16 scales; "compressed-tensors" each in its
    own, and may leave some dense: whole numbers as pack-quantized, float8 as float-quantized; "int-quantized" is that
    with 8 bits a weight and one scale a row as int8 matrices. Engines that read int-quantized or float-quantized round
    the inputs to 8 bits as well, for each token anew; here they are left as they are.
    `ValueError` names a module that the form has no room for. Not a bit of value, scale or zero is changed.
    """
    if form not in FORMATS:
        raise ValueError(f"the form of quantized weights is {form!r}, expected {', '.join(FORMATS)}")
    packed = {name: module for name, module in modules.items() if isinstance(module, Packed)}
    dense = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    for name, module in packed.items():
        if module.offset is not None or module.table is not None:
            what = "an offset for each group" if module.table is None else "a table of values"
            raise ValueError(f"{name} has {what}, which neither gptq nor compressed-tensors can store: quantize the "
                             "unquantized model")
    split = {module.group for module in packed.values() if module.group < module.shape[1]}
    groups = {name: module.group if module.group in split else -1 for name, module in packed.items()}
    config = (_gptq_config if form in GPTQ else _config)(packed, dense, groups, form)
    tensors = {}
    for name, module in packed.items():
        stored = (_gptq if form in GPTQ else _compressed)(name, module, form)
        tensors |= {f"{name}.{key}": tensor.contiguous() for key, tensor in stored.items()}
    return tensors, config


def words(fields: Tensor, bits: int) -> Tensor:
    """uint8 [..., n], each below 2^bits, as int32 [..., ceil(n · bits / 32)], the first in the lowest bits."""
    fields = F.pad(fields, (0, -fields.shape[-1] % (32 // bits)))
    if bits == 4:
        fields = fields[..., ::2] | fields[..., 1::2] << 4
    # Flat, since a single row may count as contiguous with strides that no view takes.
    return fields.flatten().view(torch.int32).view(*fields.shape[:-1], -1)


def _fields(module: Packed) -> Tensor:
    """The values [O, I] as they are stored, uint8 from 0, in the inputs' own order."""
    values = unpack4(module.weight.flatten(1)) if module.bits == 4 else module.weight.flatten(1)
    if module.order is not None:
        values = values[:, module.order.argsort()]
    return (values.short() + 2**(module.bits - 1)).to(torch.uint8)


def _zeros(module: Packed) -> Tensor:
    """The zeros [O, groups] as they are stored."""
    zero = torch.zeros_like(module.scale) if module.zero is None else module.zero
    return (zero.short() + 2**(module.bits - 1)).to(torch.uint8)


# ------------------------------------------------------------------------------------------------------ gptq


def check_gptq_shape(name: str, outputs: int, inputs: int):
    """`ValueError` for a matrix that other engines do not take as gptq."""
    if outputs % 32 or inputs % 32:
        raise ValueError(f"{name} is {outputs} × {inputs}, but gptq takes multiples of 32: choose compressed-tensors")


def _gptq(name, module, form) -> dict[str, Tensor]:
    """qweight [I/p, O], qzeros [G, O/p], scales [G, O], g_idx [I], where p values make a word."""
    bits, (outputs, inputs), scales = module.bits, module.shape, module.scale.half()
    if module.weight.is_floating_point():
        raise ValueError(f"{name} is in float8, which gptq cannot store: choose compressed-tensors")
    check_gptq_shape(name, outputs, inputs)
    if not torch.equal(scales.float(), module.scale.float()):
        raise ValueError(f"{name} has scales that float16 cannot hold, as gptq stores them: choose compressed-tensors")
    group = torch.arange(inputs, device=scales.device) // module.group
    if module.order is not None:
        group = group[module.order.argsort()]
    zeros = words(_zeros(module).T, bits)
    if form == "gptq":
        zeros -= ONES[bits]  # from the whole word at once: a zero of 0 borrows
    return {"qweight": words(_fields(module), bits).T, "qzeros": zeros, "scales": scales.T, "g_idx": group.int()}


def _gptq_config(packed, dense, groups, form) -> dict:
    kinds = {(module.bits, groups[name]) for name, module in packed.items()}
    if dense := [name for name in dense if name != "lm_head"]:
        raise ValueError(f"{dense[0]} is dense, but gptq stores every layer's matrices quantized: choose "
                         "compressed-tensors")
    if "lm_head" in packed:
        raise ValueError("lm_head is quantized, which gptq has no room for: choose compressed-tensors")
    if len(kinds) > 1:
        raise ValueError("gptq has one number of bits and one group size for all layers, here are "
                         + " and ".join(f"{bits} bits in groups of {group}" for bits, group in sorted(kinds))
                         + ": choose compressed-tensors")
    (bits, group), = kinds
    return {"quant_method": "gptq", "checkpoint_format": form, "bits": bits, "group_size": group,
            "sym": all(module.zero is None for module in packed.values()),
            "desc_act": any(module.order is not None for module in packed.values()), "lm_head": False,
            "pack_dtype": "int32"}


# ---------------------------------------------------------------------------------------- compressed-tensors


def _compressed(name, module, form) -> dict[str, Tensor]:
    """As the format stores a matrix: see `_scheme`. weight_packed [O, ceil(I/p)], weight_zero_point [ceil(O/p), G]."""
    if _scheme(name, module, -1, form)["format"] != "pack-quantized":
        return {"weight": module.weight.flatten(1), "weight_scale": module.scale}
    tensors = {"weight_packed": words(_fields(module), module.bits), "weight_scale": module.scale,
               "weight_shape": torch.tensor(module.shape)}
    if module.zero is not None:
        tensors["weight_zero_point"] = words(_zeros(module).T, module.bits).T
    return tensors


def _scheme(name, module, group, form) -> dict:
    """A config group but for its targets: how one matrix is stored. group: -1 is one a row."""
    floating, symmetric = module.weight.is_floating_point(), module.zero is None
    by_rows = module.scale.shape[1] == 1
    if module.order is not None:
        raise ValueError(f"{name} has its inputs in groups of another order, which compressed-tensors cannot store: "
                         "choose gptq")
    if group != -1 and module.shape[1] % group:
        raise ValueError(f"{name} has {module.shape[1]:,} inputs, not a multiple of its group {group}, which "
                         "compressed-tensors cannot store: choose gptq")
    if (floating or form == "int-quantized") and not (module.bits == 8 and by_rows and symmetric):
        kind = "float8 in groups" if floating else f"{module.bits} bits, {module.scale.shape[1]} scales a row"
        what, do = ("float8", "keep the files that it came from") if floating else (form, "choose compressed-tensors")
        raise ValueError(f"{name} is in {kind}, but {what} is stored with 8 bits, one scale a row and no zeros: {do}")
    kind = "float-quantized" if floating else "int-quantized" if form == "int-quantized" else "pack-quantized"
    common = {"num_bits": module.bits, "type": "float" if floating else "int", "symmetric": symmetric}
    by_group = group != -1 and kind == "pack-quantized"
    return {
        "format": kind,
        "weights": common | {"strategy": "group" if by_group else "channel", "group_size": group if by_group else None,
                             "dynamic": False, "actorder": None},
        "input_activations": None if kind == "pack-quantized" else common | {"strategy": "token", "dynamic": True,
                                                                             "symmetric": True},
        "output_activations": None}


def _config(packed, dense, groups, form) -> dict:
    """One config group for all matrices, or where they differ several, which name theirs."""
    schemes = []  # pairs of a scheme and the names that have it
    for name, module in packed.items():
        scheme = _scheme(name, module, groups[name], form)
        names = next((names for other, names in schemes if other == scheme), None)
        if names is None:
            schemes.append((scheme, names := []))
        names.append(name)
    formats = {scheme["format"] for scheme, _ in schemes}
    return {
        "quant_method": "compressed-tensors", "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": {f"group_{n}": {"targets": ["Linear"] if len(schemes) == 1 else names} | scheme
                          for n, (scheme, names) in enumerate(schemes)},
        # A head that is tied has no tensor of its own here, but is a linear layer to the other engines.
        "ignore": sorted({*dense, "lm_head"} - packed.keys())}
