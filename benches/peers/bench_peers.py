#!/usr/bin/env python3
"""Prefill and decode speed of Qiao beside llama.cpp and candle on the same weights, in one run.

    python3 tools/random_checkpoint.py --shape qwen2.5-0.5b --dtype bf16 --out /tmp/m --gguf /tmp/m.gguf
    cargo build --release -p qiao-cli && cargo build --release -p qiao-benches --example candle_llm
    python3 tools/bench_peers.py /tmp/m --gguf /tmp/m.gguf --threads 2

A GGUF file, quantised or not, may be given in the place of the folder; candle is then skipped.

Every round runs each engine once, one after the other, so that a machine whose speed drifts drifts for all; the table
shows medians and the ratio of Qiao to each peer, pair by pair. llama.cpp comes through the `llama-cpp-python` package
(build it from source, with CMAKE_ARGS=-DGGML_NATIVE=ON); `--llama-python` names the interpreter that has it. Without
it, or without candle's example, that peer is named as skipped.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

LLAMA = r"""
import json, sys, time
from llama_cpp import Llama
path, prompt, new, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
start = time.perf_counter()
llm = Llama(path, n_ctx=prompt + new + 8, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512,
            verbose=False)
load = time.perf_counter() - start
ids = [100 + i * 37 % 1000 for i in range(prompt)]
llm.eval([1]); llm.reset()
start = time.perf_counter(); llm.eval(ids); prefill = time.perf_counter() - start
llm.reset(); llm.eval([100])
start = time.perf_counter()
for i in range(new):
    llm.eval([100 + i % 900])
decode = time.perf_counter() - start
print(json.dumps({"load_s": load, "prefill_tokens_per_s": prompt / prefill, "decode_tokens_per_s": new / decode}))
"""


def run(command, threads):
    env = dict(os.environ, QIAO_THREADS=str(threads), RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))[:200]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def qiao(model, prompt, new, threads):
    """Prefill of the whole prompt, then decode after one token, as the peers are measured."""
    binary = ROOT / "target/release/qiao"
    ids = ",".join(str(100 + i * 37 % 1000) for i in range(prompt))
    base = [binary, "run", model, "--json", "--temperature", "0", "--ignore-eos", "--context", str(prompt + new + 8)]
    first = run(base + ["--token-ids", ids, "--max-tokens", "2"], threads)
    second = run(base + ["--token-ids", "100", "--max-tokens", str(new + 1)], threads)
    return {"load_s": first["load_s"], "prefill_tokens_per_s": first["prefill_tokens_per_s"],
            "decode_tokens_per_s": second["decode_tokens_per_s"]}


def candle(model, prompt, new, threads):
    binary = ROOT / "target/release/examples/candle_llm"
    first = run([binary, model, str(prompt), "1"], threads)
    second = run([binary, model, "1", str(new)], threads)
    return {"load_s": first["load_s"], "prefill_tokens_per_s": first["prefill_tokens_per_s"],
            "decode_tokens_per_s": second["decode_tokens_per_s"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gguf")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--candle-new", type=int, default=8, help="candle decodes slowly; fewer tokens are enough")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()

    engines = {"qiao": lambda: qiao(args.model, args.prompt, args.new, args.threads)}
    skipped = []
    if not pathlib.Path(args.model).is_dir():
        skipped.append("candle: it reads folders, and was given a file")
    elif (ROOT / "target/release/examples/candle_llm").exists():
        engines["candle f32"] = lambda: candle(args.model, args.prompt, args.candle_new, args.threads)
    else:
        skipped.append("candle: build it with cargo build --release -p qiao-benches --example candle_llm")
    probe = subprocess.run([args.llama_python, "-c", "import llama_cpp"], capture_output=True)
    if args.gguf and probe.returncode == 0:
        command = [args.llama_python, "-c", LLAMA, args.gguf, str(args.prompt), str(args.new), str(args.threads)]
        engines["llama.cpp"] = lambda: run(command, args.threads)
    else:
        skipped.append("llama.cpp: give --gguf FILE and --llama-python with llama-cpp-python installed")

    rows = {name: [] for name in engines}
    for round_number in range(args.rounds):
        for name, measure in engines.items():
            rows[name].append(measure())
            print(f"round {round_number + 1} {name}: {json.dumps(rows[name][-1])}", file=sys.stderr, flush=True)

    def median(name, key):
        return statistics.median(r[key] for r in rows[name])

    print(f"{args.model}: prompt {args.prompt}, decode {args.new} at depth 0, {args.threads} threads, "
          f"medians of {args.rounds} alternated rounds")
    print(f"{'engine':<12} {'prefill tok/s':>14} {'decode tok/s':>13} {'load s':>7}   qiao ÷ engine: prefill, decode")
    result = {}
    for name in engines:
        ratio = {}
        for key in ("prefill_tokens_per_s", "decode_tokens_per_s"):
            ratio[key] = statistics.median(q[key] / r[key] for q, r in zip(rows["qiao"], rows[name]))
        result[name] = {"runs": rows[name], "ratio": ratio}
        print(f"{name:<12} {median(name, 'prefill_tokens_per_s'):>14.1f} {median(name, 'decode_tokens_per_s'):>13.2f} "
              f"{median(name, 'load_s'):>7.2f}   {ratio['prefill_tokens_per_s']:.2f}×, {ratio['decode_tokens_per_s']:.2f}×")
    for line in skipped:
        print(f"skipped: {line}")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
