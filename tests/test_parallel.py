"""Tensor parallelism: two processes, each with half of every projection, against one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_fast_gpu import ALL_GLOBAL, CUDA, HYBRID, WINDOW, reference_attention
from torch.distributed.device_mesh import init_device_mesh

from minexaone.fast import speed_up
from minexaone.linear.parallel import tensor_parallel
from minexaone.linear.rounding import quantize
from minexaone.model import Exaone4, KVCache

CONFIGS = {"hybrid": HYBRID, "tied": replace(ALL_GLOBAL, num_key_value_heads=2)}
ROWS = 3


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both processes saw, see `main`."""
    folder = tmp_path_factory.mktemp("two")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        Exaone4(config).save_pretrained(folder / name)
    here = Path(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (here.parents[1], here.parent))),
                                "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "",
                                "FAST": str(not CUDA)}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           here, folder], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_give_the_logits_and_ids_of_one(two, name):
    for seen in two:
        assert seen[name]["error"] < 1e-5 and seen[name]["padded error"] < 1e-5
        assert seen[name]["ids"] == seen[name]["ids of one"]
        assert len({len(row) for row in seen[name]["ids"]}) == 1  # to the end, beyond two windows


@pytest.mark.skipif(CUDA, reason="in Triton's interpreter, which is meant for machines without a GPU")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_fast_path_works_on_its_slices(two, name):
    for seen in two:
        assert seen[name]["fast error"] < 1e-5


def test_each_process_has_half_of_the_projections_and_of_the_cache(two):
    for seen in two:
        assert seen["hybrid"]["share"] == seen["tied"]["share"] == 0.5
        assert seen["hybrid"]["cached heads"] == seen["tied"]["cached heads"] == 1


def test_weights_are_read_where_they_lie(two):
    """A slice of rows is a part of the mapped file; were the file read whole, it would be a copy."""
    for rank, seen in enumerate(two):
        assert seen["hybrid"]["offset"] == rank * HYBRID.intermediate_size // 2 * HYBRID.hidden_size


def test_the_paths_of_one_device_refuse_slices(two):
    assert all("divided among processes" in seen["refused"] and "only slices" in seen["save"] for seen in two)


@pytest.fixture
def alone():
    """A process group of one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_what_cannot_be_divided_is_refused_and_left_whole(alone):
    class Three:
        device_type, size = "cpu", staticmethod(lambda: 3)

    model = Exaone4(HYBRID)
    with pytest.raises(ValueError, match="10 attention heads cannot be divided among 3 processes"):
        tensor_parallel(model, Three)
    quantize(model, 8)
    with pytest.raises(ValueError, match="layers.0.self_attn.q_proj is a PackedLinear"):
        tensor_parallel(model, alone)
    assert model.state_dict()


def main(folder: Path):
    """One of the two processes."""
    from minexaone.fast import gpu

    torch.distributed.init_process_group("gloo")
    torch.cuda.get_device_capability, torch.cuda.is_current_stream_capturing = lambda _: (8, 0), lambda: False
    gpu.causal_attention, gpu.SPLITS, gpu.DTYPES = reference_attention, 4, (torch.float32,)
    mesh, rank, seen = init_device_mesh("cpu", (2,)), torch.distributed.get_rank(), {}
    for name, config in CONFIGS.items():
        one = Exaone4.from_pretrained(folder / name, device="cpu")
        whole = sum(linear.weight.numel() for linear in one.layers.modules() if isinstance(linear, torch.nn.Linear))
        loaded = Exaone4.from_pretrained(folder / name, device="cpu")
        start = loaded.layers[0].mlp.up_proj.weight.data_ptr()
        model = tensor_parallel(loaded, mesh)
        slices = [linear.weight for linear in model.layers.modules() if isinstance(linear, torch.nn.Linear)]
        offset = (model.layers[0].mlp.up_proj.weight.data_ptr() - start) // 4
        ids = torch.randint(5, config.vocab_size, (ROWS, 3 * WINDOW), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[1, :30], mask[2, 50:] = 0, 0
        with torch.inference_mode():
            true, padded = one(ids), one(ids, None, mask)
            error = (model(ids) - true).norm() / true.norm()
            kept = (model(ids, None, mask) - padded)[mask.bool()]
            prompts = ids[:, :WINDOW].tolist()
            options = {"max_new_tokens": 2 * WINDOW, "stop_ids": (), "temperature": 1.0, "seed": 0}
            replies, expected = model.generate(prompts, **options), one.generate(prompts, **options)
            cache = model.new_cache()
            model(ids, cache)
            fast, errors = gpu.FastGPU(model) if os.environ["FAST"] == "True" else one, []
            for rows in (1, 2):
                caches = KVCache(config), KVCache(config)
                for part in (ids[:rows, :50], ids[:rows, 50:51], ids[:rows, 51:52]):
                    right = one(part, caches[0], None, 1)
                    errors.append((fast(part, caches[1], None, 1) - right).norm() / right.norm())
        seen[name] = {"error": error.item(), "padded error": (kept.norm() / padded.norm()).item(), "ids": replies,
                      "ids of one": expected, "share": sum(part.numel() for part in slices) / whole,
                      "cached heads": cache.keys[0].shape[1], "offset": offset, "fast error": max(errors).item()}
    for name, use in {"refused": speed_up, "save": Exaone4.save_pretrained}.items():
        try:
            use(model, *([folder / f"saved-{rank}"] if name == "save" else []))
        except ValueError as refused:
            seen[name] = str(refused)
    (folder / f"{rank}.json").write_text(json.dumps(seen), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
