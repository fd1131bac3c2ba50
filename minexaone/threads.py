"""How many threads a computation on the CPU gets: one if it is too small to be worth sharing."""

import os
from contextlib import contextmanager

import torch

# Multiply-adds of a step from which it is shared. Every operation of a small model ends in waiting for other threads;
# where another program has taken their core, that takes a time slice of the system instead of a microsecond. On two
# cores a step of 47 million took 0.9 of one thread's time with both idle, and 4.2 times as long with one of them busy.
WORTH_SHARING = 50_000_000
AT_START = torch.get_num_threads()


@contextmanager
def threads_for(model, tokens: int):
    """One thread in this block if `model` is on the CPU and small for so many tokens; else the threads that there are.

    What the user chose stays: OMP_NUM_THREADS, MKL_NUM_THREADS, or `torch.set_num_threads` after the import.
    """
    before = torch.get_num_threads()
    if before == 1 or chosen_by_user() or model.device.type != "cpu" or tokens * size(model) >= WORTH_SHARING:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_one_thread():
    """One thread from now on, for a process that works with small models only, unless the user chose a number."""
    if not chosen_by_user():
        torch.set_num_threads(1)


def chosen_by_user() -> bool:
    """Whether somebody set a number of threads."""
    return torch.get_num_threads() != AT_START or any(
        os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def size(model) -> int:
    """Weights that one token is multiplied with: all but the embedding, which is looked up."""
    config = model.config
    heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    layer = config.hidden_size * (2 * heads + 3 * config.intermediate_size)
    return config.num_hidden_layers * layer + config.vocab_size * config.hidden_size
