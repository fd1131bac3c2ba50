"""One training loop for every stage: AdamW, warm-up, clipping, checkpoints, exact resume, several processes.

A stage gives it batches and a loss. A step's batches depend on the seed and the number of the step alone, so that a run
which was killed goes on from its last checkpoint as if nothing had happened.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from minexaone.files import CheckpointError, write_tensors
from minexaone.model import Exaone4
from minexaone.scoring.rollouts import ranks
from minexaone.training.packing import Packed, PackedModel

LOG_EVERY = 20  # steps


@dataclass(frozen=True)
class Recipe:
    """How a stage is optimised. schedule: "cosine" falls from the peak on, "wsd" stays and falls in the last fifth."""

    steps: int
    learning_rate: float
    schedule: str = "cosine"
    warm_up: float = 0.05  # share of the steps
    weight_decay: float = 0.1
    clip: float = 1.0  # largest norm of the gradient
    save_every: int = 200  # steps

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at a step: a linear warm-up, then down to a fiftieth."""
        warm_up = max(1, round(self.warm_up * self.steps))
        if step < warm_up:
            return (step + 1) / warm_up
        if self.schedule == "wsd":
            left = (self.steps - step) / max(1, self.steps / 5)
            return min(1.0, max(0.02, left))
        return 0.51 + 0.49 * math.cos(math.pi * (step - warm_up) / max(1, self.steps - warm_up))


@contextmanager
def repeatable():
    """Sums in a fixed order: the same seed on the same machine gives the same losses to the last bit."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # for finding bugs only
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fills


@contextmanager
def training(model: torch.nn.Module):
    """In training mode meanwhile; then in the mode as before, and without gradients."""
    before = model.training
    model.train().zero_grad()
    try:
        yield
    finally:
        model.train(before).zero_grad()


def fit(model: Exaone4, draw: Callable[[int], Iterable[tuple[list[Packed], dict]]],
        loss: Callable[[Tensor, Packed], Tensor], recipe: Recipe, folder: Path, name: str) -> dict:
    """Train `model` in place; return its log.

    draw(start): yields, for each step from `start` on, its batches and numbers to log. loss(log-probabilities, batch):
    a scalar; a step descends the sum over its batches. folder: holds the checkpoint, from which a run that was killed
    goes on; `CheckpointError` if that is damaged, of another stage or of another recipe.

    On a GPU the model computes in bfloat16, as it will be shipped, and the optimizer moves a float32 copy of the
    weights, because bfloat16's 8 bits would round small steps away. On a CPU it computes in float32. It stays in that
    dtype; weights that require no gradient stay as they are.
    """
    device, (rank, world) = model.device, ranks()
    on_gpu = device.type == "cuda"
    names, parameters = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    masters = [torch.nn.Parameter(p.detach().float().clone()) for p in parameters]
    model.to(torch.bfloat16 if on_gpu else torch.float32)
    matrices, gains = ([p for p in masters if (p.dim() == 2) == kind] for kind in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": gains, "weight_decay": 0.0}],
        lr=recipe.learning_rate, betas=(0.9, 0.95), fused=on_gpu)
    state, stage = folder / f"{name}.state.safetensors", {"name": name, **asdict(recipe)}
    log = _resume(state, stage, names, masters, optimizer) if state.is_file() else {
        "steps": [], "tokens": 0, "updates": 0, "seconds": 0.0}
    start = log["steps"][-1]["step"] if log["steps"] else 0
    with torch.no_grad():
        torch._foreach_copy_(parameters, masters)
    packed = PackedModel(model, compiled=on_gpu)
    parallel = DistributedDataParallel(packed) if world > 1 else packed

    def save():
        if rank == 0:
            tensors, text = _state(names, masters, optimizer), json.dumps({"stage": stage, "log": log})
            write_tensors(state, tensors, {"text": text, "checksum": _checksum(tensors, text)})

    begin, tokens_before, seconds_before, window = time.time(), log["tokens"], log["seconds"], []
    bar = tqdm(total=recipe.steps, initial=start, desc=name, unit="step", disable=rank > 0, mininterval=2)
    with training(model):
        for step, (batches, numbers) in zip(range(start + 1, recipe.steps + 1), draw(start), strict=False):
            total = torch.zeros((), device=device)
            while batches and len(batches) % world:  # every process needs as many
                batches = [*batches, batches[0].silenced()]
            mine = batches[rank::world]
            for i, batch in enumerate(mine):
                more = world > 1 and i < len(mine) - 1
                with parallel.no_sync() if more else nullcontext(), repeatable():
                    part = loss(parallel(batch := batch.to(device)), batch)
                    (part * world).backward()  # DDP takes the mean over the processes, and a sum is wanted
                total += part.detach()
                log["tokens"] += batch.ids.numel() * world
            if world > 1:
                dist.all_reduce(total)
            norm = torch.zeros((), device=device)
            if batches:  # samples may have shown nothing to learn from
                for master, parameter in zip(masters, parameters, strict=True):
                    master.grad, parameter.grad = parameter.grad.float(), None
                norm = torch.nn.utils.clip_grad_norm_(masters, recipe.clip)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * recipe.rate(step - 1)
                optimizer.step()
                log["updates"] += 1
                with torch.no_grad():
                    torch._foreach_copy_(parameters, masters)
            window.append((total, norm, numbers))
            saves = step % recipe.save_every == 0 or step == recipe.steps
            bar.update()
            if saves or step % LOG_EVERY == 0:  # reading a loss waits for the device
                losses, norms = (torch.stack([entry[i] for entry in window]).mean().item() for i in (0, 1))
                if not math.isfinite(losses):
                    raise RuntimeError(f"{name}: the loss is {losses} at step {step}: lower the learning rate")
                seconds = time.time() - begin
                log["seconds"] = round(seconds_before + seconds, 1)
                means = {key: round(sum(n[key] for *_, n in window) / len(window), 4) for key in numbers}
                log["steps"].append({"step": step, "loss": round(losses, 6), "norm": round(norms, 4), **means})
                window = []
                speed = (log["tokens"] - tokens_before) / seconds
                bar.set_postfix(loss=f"{losses:.4f}", tokens_per_s=f"{speed:,.0f}", **means)
            if saves:
                save()
    bar.close()
    return log


def _state(names, masters, optimizer):
    tensors = {}
    for name, master in zip(names, masters, strict=True):
        tensors |= {f"master.{name}": master.data, **{f"{key}.{name}": t for key, t in optimizer.state[master].items()}}
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def _checksum(tensors, text):
    """Of everything in a checkpoint: damage in it would otherwise go on as other weights."""
    found = hashlib.sha256(text.encode())
    for key, tensor in sorted(tensors.items()):
        found.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _resume(file, stage, names, masters, optimizer):
    """Fill masters and optimizer from the checkpoint of a stage, its name and recipe as a dict; return its log."""
    try:
        with safe_open(file, framework="pt") as stored:
            tensors, metadata = {key: stored.get_tensor(key) for key in stored.keys()}, stored.metadata() or {}
        if metadata.get("checksum") != _checksum(tensors, text := metadata.get("text", "")):
            raise ValueError("its checksum is wrong")
        found = json.loads(text)
        log, was = found["log"], found["stage"]
        if was != stage:
            raise ValueError("; ".join(f"{key} {was.get(key)}, not {stage[key]}" for key in stage
                                       if was.get(key) != stage[key]))
        if {key: tensor.shape for key, tensor in tensors.items() if key.startswith("master.")} != {
                f"master.{name}": master.shape for name, master in zip(names, masters, strict=True)}:
            raise ValueError("its weights are of another model")
        for name, master in zip(names, masters, strict=True):
            master.data.copy_(tensors[f"master.{name}"])
            for key in ("step", "exp_avg", "exp_avg_sq") if log["updates"] else ():
                optimizer.state[master][key] = tensors[f"{key}.{name}"].to(master.device)
    except Exception as error:
        raise CheckpointError(f"{file} is not a checkpoint of this run ({error}): delete it to begin this stage "
                              "again") from None
    return log


def workers_here(device) -> int:
    """How many processes may draw data: on a GPU's machine all cores but two, as steps wait for data."""
    return 0 if device.type == "cpu" else max(1, (os.cpu_count() or 1) - 2)
