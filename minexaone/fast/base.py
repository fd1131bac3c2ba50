"""What both fast paths share: they hold tensors of a model, and must notice when these are no longer the model's."""

from torch import nn

from minexaone.linear import altered, parts
from minexaone.model import MLP, Attention, DecoderLayer, Exaone4, RMSNorm

TRANSPARENT = (Attention, DecoderLayer, MLP, RMSNorm, nn.ModuleList)  # modules whose mathematics a fast path knows


def fingerprint(model: Exaone4) -> list[tuple]:
    """Which tensors the model computes with now: equal as long as only their values change.

    Raises ValueError naming a module that a fast path cannot see through, such as an adapter or one with a hook.
    """
    found = []
    for name, module in model.named_modules():
        if type(module) is RMSNorm:
            found.append(_identity(name, module.weight))
        if (type(module) in TRANSPARENT or module is model) and not altered(module):
            continue
        try:
            found += [_identity(name, tensor) for tensor in parts(module)]
        except ValueError as error:
            raise ValueError(f"the fast path cannot run {name or 'this model'}: {error}; merge or remove it, or set "
                             "model.fast = None for the clear path") from None
    return found


def _identity(name, tensor):
    return name, tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape


class FastPath:
    """Base of the fast paths, which are called as the model is, with the same caches.

    count(cache, rows): only of a path whose steps can be captured (see `generation.captured`).
    """

    count = None

    def __init__(self, model: Exaone4):
        self.model, self.fingerprint = model, fingerprint(model)

    def renewed(self) -> "FastPath":
        """Itself; or made anew, and kept in the model, if the model has other tensors by now."""
        if fingerprint(self.model) != self.fingerprint:
            from minexaone.fast import speed_up

            speed_up(self.model)
        return self.model.fast

    def __deepcopy__(self, memo):
        """A copied model has tensors of its own and is slow until `speed_up`."""
