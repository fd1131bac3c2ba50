"""What a class costs one machine: memory, threads and waiting of several kernels that have opened lesson 00.

python notebooks/kernels.py 1 4 12
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import psutil
from jupyter_client import KernelManager

LESSON = Path(__file__).parent / "00_quick_start.ipynb"
ASK = 'reply = Chat(model, tokenizer).send("Explain how wonderful you are")\nassert reply.content'


def first_cell() -> str:
    """Lesson 00's imports, and the loading of its model."""
    cells = json.loads(LESSON.read_text(encoding="utf-8"))["cells"]
    return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def run(clients: list, code: str) -> float:
    """Seconds until every client's kernel has run the code, all at once; RuntimeError if one fails."""
    start = time.perf_counter()
    asked = [client.execute(code, store_history=False) for client in clients]
    for client, question in zip(clients, asked, strict=True):
        answer = client.get_shell_msg(timeout=600)
        while answer["parent_header"].get("msg_id") != question:  # what is left of `wait_for_ready`
            answer = client.get_shell_msg(timeout=600)
        if answer["content"]["status"] != "ok":
            raise RuntimeError(f"a kernel failed: {answer['content']['ename']}: {answer['content']['evalue']}")
    return time.perf_counter() - start


def measure(count: int) -> str:
    """One line about so many kernels."""
    managers = [KernelManager(kernel_name="python3") for _ in range(count)]
    clients = []
    try:
        for manager in managers:
            manager.start_kernel()
            clients.append(manager.client())
            clients[-1].start_channels()
        for client in clients:
            client.wait_for_ready(timeout=600)
        opened = run(clients, first_cell())
        run(clients, ASK)  # the first reply of a process takes longer
        alone, together = median(run([client], ASK) for client in clients), run(clients, ASK)
        processes = [psutil.Process(manager.provisioner.pid) for manager in managers]
        memory = [process.memory_full_info() for process in processes]
        resident = median(info.rss for info in memory) / 1e6
        total = sum(getattr(info, "pss", info.rss) for info in memory) / 1e6  # pss counts a shared page once in all
        threads = median(process.num_threads() for process in processes)
        return (f"{count:2} kernels: {resident:.0f} MB each, {total:,.0f} MB in all, {threads:.0f} threads each, "
                f"opened in {opened:.1f} s; a reply {alone:.1f} s alone, {together:.1f} s if all ask at once")
    finally:
        for client in clients:
            client.stop_channels()
        for manager in managers:
            manager.shutdown_kernel(now=True)


def main(argv=None):
    """Measure some numbers of kernels, one after the other."""
    parser = argparse.ArgumentParser(description="Measure kernels that have opened lesson 00 and answer a prompt.")
    parser.add_argument("kernels", nargs="+", type=int, help="how many at once, such as 1 4 12")
    print(f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB")
    for count in parser.parse_args(argv).kernels:
        print(measure(count), flush=True)


if __name__ == "__main__":
    main()
