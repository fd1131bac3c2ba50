"""Generation near the speed of the memory: chooses the fast path of the model's device."""


def speed_up(model):
    """Let an `Exaone4` generate through the fast path of its device from now on; returns the model.

    Its tokens are those of the clear path up to rounding. It compiles: for seconds on CUDA (`gpu.py`), longer on the
    CPU (`cpu.py`), less in later runs, which find the results on disk. It follows the model: when its weights are
    loaded, converted or moved, the next generation makes it anew. Raises ValueError where there is no fast path or the
    model has modules that it cannot see through, and RuntimeError if what compiles it is missing: Triton on CUDA, a
    C++ compiler on the CPU.
    """
    if model.device.type == "cuda":
        try:
            from minexaone.fast.gpu import FastGPU as Fast
        except ImportError as error:
            raise RuntimeError(f"the fast path on CUDA needs Triton, which PyTorch brings along on Linux ({error})") \
                from None
    elif model.device.type == "cpu":
        from minexaone.fast.cpu import FastCPU as Fast
    else:
        raise ValueError(f"there is no fast path for {model.device.type}, only for cuda and cpu")
    model.fast = Fast(model)
    return model
