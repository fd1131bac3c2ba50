"""`python -m minexaone doctor`: what this machine has, which published models fit on it, and what to do if not."""

import argparse
import os
import platform
import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F

from minexaone.bench import SHAPES
from minexaone.config_json import DTYPES
from minexaone.fast.cpu import check_compiler
from minexaone.model import Config, Exaone4, cache_bytes, pick_device

ROOT = Path(__file__).parent.parent
NEEDED = ("torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "jinja2", "tqdm")
OPTIONAL = {"jupyterlab": "lessons", "matplotlib": "lessons", "nbval": "tests", "transformers": "tests, comparisons",
            "gguf": "export to GGUF", "triton": "the fast path on CUDA"}
# Bytes of a weight in the layers, and of one in the embedding and the head. In 4 bits groups of 128 share a scale.
# (--int8 and --int4 round after loading, so that 16 bits must fit first.)
WIDTHS = {16: (2, 2), 8: (1, 1), 4: (0.5 + 2 / 128, 1)}
CONTEXT = 8192  # tokens of cache that are counted with the weights
ROOM = 0.7e9  # bytes for Python, PyTorch and activations
FREE = 0.9  # of the free memory may be planned with
ADVICE = {16: "fits as it is", 8: "fits in 8 bits: write them with `quantize --bits 8`",
          4: "fits in 4 bits: write them with `quantize`, or take a GPTQ, AWQ or GGUF file",
          None: "does not fit: a smaller model, a shorter context, or several GPUs (torchrun; see README)"}


def main(argv):
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m minexaone doctor", description=__doc__.partition(": ")[2])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    device = pick_device(parser.parse_args(argv).device)
    for line in [*versions(), "", *machine(device), "", *fits(device)]:
        print(line)


def versions() -> list[str]:
    """Of Python and of every package: installed, and tested, where the project's list is at hand."""
    listed = ROOT / "tested-versions.txt"
    tested = dict(line.split("==") for line in listed.read_text(encoding="utf-8").splitlines() if "==" in line) \
        if listed.is_file() else {}
    lines = [f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
             f"{'package':16} {'installed':16} tested with"]
    for name in (*NEEDED, *OPTIONAL):
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing" if name in NEEDED else "-"
        note = "" if name in NEEDED else f" ({OPTIONAL[name]})"
        lines.append(f"{name:16} {found:16} {tested.get(name, '?')}{note}")
    return lines


def machine(device: torch.device) -> list[str]:
    """Device, memory, threads and load, compiler, disk."""
    free, total = memory(device)
    lines = [f"device           {name_of(device)}",
             f"memory           {gigabytes(free)} free of {gigabytes(total)}" if total else
             "memory           unknown (pip install psutil tells)"]
    if device.type == "cpu":
        cores = os.cpu_count()
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # not on Windows
        lines.append(f"threads          {torch.get_num_threads()} of {cores} cores"
                     + (f", load {load:.1f}" if load is not None else ""))
        if load is not None and load > cores / 2:
            lines.append("                 others are computing here: every step waits for the slowest core; "
                         "OMP_NUM_THREADS=1 may be faster")
    if device.type == "cpu":
        taken = products()
        lines.append("prompts          a product takes " + ", ".join(f"{1000 * seconds:.0f} ms in {name}"
                                                                     for name, seconds in taken.items())
                     + f": --dtype {min(taken, key=taken.get)} reads them fastest")
    if device.type != "mps":
        lines.append(f"fast path        {fast_path(device)}")
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    lines.append(f"disk             {gigabytes(shutil.disk_usage(there).free)} free for downloads in {cache}")
    return lines


def products() -> dict[str, float]:
    """Seconds of a matrix product on the CPU, as in a prompt, by dtype: the best of three."""
    taken = {}
    for name in DTYPES:
        x, weight = (torch.ones(rows, 2048, dtype=getattr(torch, name)) for rows in (128, 2048))
        times = []
        for _ in range(4):  # the first warms up
            start = time.perf_counter()
            F.linear(x, weight)
            times.append(time.perf_counter() - start)
        taken[name] = min(times[1:])
    return taken


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)} (of {torch.cuda.device_count()})"
    return str(device)


def fast_path(device: torch.device) -> str:
    """Whether --fast can work here."""
    try:
        if device.type == "cpu":
            check_compiler()
        else:
            import triton  # noqa: F401
    except (RuntimeError, ImportError) as error:
        return f"no: {error}"
    return "yes, --fast" if device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0) else \
        "untested on a GPU older than Ampere"


def memory(device: torch.device) -> tuple[int, int]:
    """(bytes free, bytes in all) of the device's memory; zeros where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    try:
        import psutil  # comes with jupyterlab

        found = psutil.virtual_memory()
        return found.available, found.total
    except ImportError:
        pass
    listed = Path("/proc/meminfo")
    if listed.is_file():
        rows = dict(line.split(":") for line in listed.read_text(encoding="utf-8").splitlines())
        return tuple(int(rows[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))
    return 0, 0


def needed(config: Config, bits: int, context: int = CONTEXT) -> int:
    """Bytes for a model's weights in 16, 8 or 4 bits, its cache in 16, and what runs it."""
    with torch.device("meta"):
        model = Exaone4(config)
    ends = sum(weight.numel() for name, weight in model.state_dict().items() if name.startswith(("embed", "lm_head")))
    layers = sum(weight.numel() for weight in model.parameters()) - ends
    of_layers, of_ends = WIDTHS[bits]
    return int(layers * of_layers + ends * of_ends + cache_bytes(config, context) + ROOM)


def fits(device: torch.device) -> list[str]:
    """A line for each published shape: what fits, and what to do."""
    free, _ = memory(device)
    lines = [f"with {CONTEXT:,} tokens of context   16 bits    8 bits    4 bits"]
    for shape, config in SHAPES.items():
        sizes = {bits: needed(config, bits) for bits in WIDTHS}
        best = next((bits for bits, size in sizes.items() if size < FREE * free), None)
        lines.append(f"EXAONE-4.0-{shape.upper():5} needs     " + " ".join(f"{gigabytes(size):>9}"
                                                                         for size in sizes.values())
                     + ("" if not free else f"   {ADVICE[best]}"))
    return lines


def gigabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:,.1f} GB"
