"""GPTQ: rounding a matrix so that its output changes least, on inputs like those that it will see.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (arXiv:2210.17323).
Each row w of a matrix is a problem of its own: find values on its grid that change w·x least. With H = Σ x xᵀ over
calibration inputs, a change d costs d H dᵀ. Inputs are rounded one after the other, and the weights of those that are
still to come are moved so as to make good for the error as far as they can. Where the inputs are correlated that is
far; where they are not, H is diagonal, and nothing is better than rounding to the nearest.
"""

import torch
from torch import Tensor

from minexaone.linear.packed import PackedLinear
from minexaone.linear.rounding import grid, group_size, packed_linear, round_to

BLOCK = 128  # inputs whose errors are carried on together: one large product instead of many small ones


def gram(x: Tensor) -> Tensor:
    """Σ x xᵀ over inputs x [..., I], float32 [I, I]. The Hessian of many inputs is the sum over their parts."""
    x = x.flatten(0, -2).float()
    return x.T @ x


def carry(hessian: Tensor, damping: float) -> Tensor:
    """U, upper triangular [I, I], with UᵀU = H⁻¹. If input i is rounded with error e, its successors gain least by

        w[j] -= e / U[i, i] · U[i, j],   j > i,

    which is least squares for the inputs from i on, all solved by one decomposition. damping: this share of the mean of
    H's diagonal is added to it, so that H has an inverse also where calibration inputs span too little.
    """
    diagonal = hessian.diagonal()
    hessian = hessian + torch.diag_embed((diagonal == 0) + damping * diagonal.mean())  # 0: an input that was never on
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


@torch.no_grad()
def gptq(weight: Tensor, hessian: Tensor, bits: int, group: int = -1, symmetric: bool = True,
         stored: torch.dtype = torch.float16, damping: float = 0.01) -> PackedLinear:
    """weight [O, I], rounded for inputs with this Hessian [I, I], float32 (see `gram`).

    The input that carries most is rounded first, while all others can still make good for it. Scales are those of the
    original weights, in groups of neighbouring inputs (-1: one a row), so the order leaves no trace in what is stored.
    stored: the scales' type. `ValueError` if groups do not fill a row or the Hessian is not finite.
    """
    if not hessian.isfinite().all():
        raise ValueError("a Hessian is not finite: the weights are damaged, or activations overflow")
    inputs, group = weight.shape[1], group_size(weight.shape[1], group)
    scale, zero = grid(weight.detach().float().unflatten(1, (-1, group)), bits, symmetric, stored)
    scale, zero = scale[..., 0], zero[..., 0]  # [O, groups]

    order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = carry(hessian[order][:, order], damping)
    weight, s, z = weight.detach().float()[:, order], scale[:, order // group], zero[:, order // group]  # all [O, I]
    values = torch.empty_like(weight)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = torch.empty_like(weight[:, start:end])
        for i in range(start, end):
            values[:, i] = round_to(weight[:, i], s[:, i], z[:, i], bits)
            error = (weight[:, i] - (values[:, i] - z[:, i]) * s[:, i]) / upper[i, i]
            weight[:, i + 1:end] -= torch.outer(error, upper[i, i + 1:end])
            errors[:, i - start] = error
        weight[:, end:] -= errors @ upper[start:end, end:]
    values = values[:, order.argsort()]
    return packed_linear(values, scale.to(stored), None if symmetric else zero, group, bits)
