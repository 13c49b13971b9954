#!/usr/bin/env python3
"""Many sequences at once: Qiao beside llama.cpp's batched bench on the same GGUF file, in one run.

    cargo build --release -p qiao-cli
    python3 benches/peers/bench_serve.py MODEL.gguf --npp 128 --ntg 32 --npl 1,4,8 --threads 2

For llama.cpp this is the algorithm of its llama-batched-bench, through the C API that the `llama-cpp-python` package
brings (build it from source, with CMAKE_ARGS=-DGGML_NATIVE=ON; `--llama-python` names the interpreter that has it): the
cache is cleared, npl prompts of npp random tokens are decoded in batches, then ntg times one random token for each of
the npl sequences; no token is chosen. With --pp-shared one prompt is decoded and its cache is given to all sequences.

For Qiao it is `qiao bench serve --together npl`: npl requests at the same moment through queue, scheduler, paged cache and
sampler, with room for all prompts in one batch, and no sharing of prompts; with --pp-shared one request of npl samples.
S_PP is tokens of prompts per second until the last first token, S_TG tokens after it per second, S both over the whole.

Every round runs each engine once, one after the other, so that a machine whose speed drifts drifts for both; the table
shows medians and the ratio of Qiao to llama.cpp, pair by pair.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

LLAMA = r"""
import json, random, sys, time
import llama_cpp as ll
path, npp, ntg, npls, threads, shared = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), sys.argv[6] == "1"
ll.llama_backend_init()
quiet = ll.llama_log_callback(lambda level, text, data: None)
ll.llama_log_set(quiet, None)
model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
assert model, "llama.cpp can't load " + path
vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
random.seed(0)

def fill(batch, entries):
    batch.n_tokens = len(entries)
    for i, (token, position, sequence, logits) in enumerate(entries):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, logits
        batch.seq_id[i][0] = sequence

def decode(context, batch, entries, most):
    for at in range(0, len(entries), most):
        fill(batch, entries[at:at + most])
        assert ll.llama_decode(context, batch) == 0, "llama_decode failed"
    ll.llama_synchronize(context)

rows = []
for npl in map(int, npls.split(",")):
    params = ll.llama_context_default_params()
    params.n_ctx = npl * ((npp + ntg + 255) // 256 * 256)
    params.n_batch, params.n_ubatch = 2048, 512
    params.n_seq_max, params.n_threads, params.n_threads_batch = npl, threads, threads
    context = ll.llama_init_from_model(model, params)
    assert context, "llama.cpp gives no context"
    memory = ll.llama_get_memory(context)
    batch = ll.llama_batch_init(2048, 0, 1)
    token = lambda: random.randrange(vocab)
    decode(context, batch, [(token(), i, 0, i == 15) for i in range(16)], 2048)
    ll.llama_memory_clear(memory, False)
    prompts = 1 if shared else npl
    entries = [(token(), i, j, i == npp - 1) for j in range(prompts) for i in range(npp)]
    start = time.perf_counter()
    decode(context, batch, entries, 2048)
    prompt = time.perf_counter() - start
    for j in range(1, npl if shared else 1):
        ll.llama_memory_seq_cp(memory, 0, j, -1, -1)
    start = time.perf_counter()
    for i in range(ntg):
        decode(context, batch, [(token(), npp + i, j, True) for j in range(npl)], 2048)
    generation = time.perf_counter() - start
    rows.append({"npl": npl, "t_pp": prompt, "t_tg": generation, "pp": prompts * npp, "tg": npl * ntg})
    ll.llama_batch_free(batch)
    ll.llama_free(context)
print(json.dumps(rows))
"""


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))[:200]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def qiao(args, npl, seed):
    """One round for each number of sequences."""
    base = [ROOT / "target/release/qiao" if args.qiao is None else args.qiao, "bench", "serve", args.model, "--json", "-",
            "--threads", args.threads, "--prompt", args.npp, "--output", args.ntg + 1, "--requests", 1, "--seed", seed,
            "--no-sharing", "--batch-tokens", max(npl) * args.npp, "--chunk", args.npp]
    if args.pp_shared:
        reports = [run(base + ["--together", 1, "--samples", n]) for n in npl]
    else:
        reports = [run(base + ["--together", ",".join(map(str, npl))])]
    points = [point for report in reports for point in report["points"]]
    rows = []
    for n, point in zip(npl, points, strict=True):
        phases = point["phases"]
        if phases["overlapping_tokens"] > point["output_tokens"] / 20:
            print(f"note: at {n} sequences Qiao generated {phases['overlapping_tokens']} tokens beside prompts", file=sys.stderr)
        rows.append({"npl": n, "t_pp": phases["prompt_s"]["p50"], "t_tg": phases["generation_s"]["p50"],
                     "pp": point["prompt_tokens"], "tg": round(phases["generation_tokens_per_s"]["p50"] * phases["generation_s"]["p50"])})
    return rows


def rates(row):
    return (row["pp"] / row["t_pp"], row["tg"] / row["t_tg"], (row["pp"] + row["tg"]) / (row["t_pp"] + row["t_tg"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--qiao", help="the qiao command; without it target/release/qiao")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--npp", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--ntg", type=int, default=32, help="tokens to generate for each sequence")
    parser.add_argument("--npl", default="1,4,8", help="sequences at once")
    parser.add_argument("--pp-shared", action="store_true", help="one prompt for all sequences")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()

    npl = [int(n) for n in args.npl.split(",")]
    probe = subprocess.run([args.llama_python, "-c", "import llama_cpp"], capture_output=True)
    engines = {"qiao": lambda seed: qiao(args, npl, seed)}
    if probe.returncode == 0:
        llama = [args.llama_python, "-c", LLAMA, args.model, args.npp, args.ntg, args.npl, args.threads, int(args.pp_shared)]
        engines["llama.cpp"] = lambda seed: run(llama)

    runs = {name: [] for name in engines}
    for number in range(args.rounds):
        for name, measure in engines.items():
            runs[name].append(measure(number))
            print(f"round {number + 1} {name}: {json.dumps(runs[name][-1])}", file=sys.stderr, flush=True)

    shared = "one prompt for all" if args.pp_shared else "a prompt each"
    print(f"{args.model}: npp {args.npp}, ntg {args.ntg}, {shared}, {args.threads} threads, medians of {args.rounds} alternated rounds")
    print(f"{'npl':>4} {'engine':<10} {'S_PP t/s':>9} {'S_TG t/s':>9} {'S t/s':>9}   qiao ÷ engine: S_PP, S_TG, S")
    result = []
    for at, n in enumerate(npl):
        for name in engines:
            of = [rates(rows[at]) for rows in runs[name]]
            own = [rates(rows[at]) for rows in runs["qiao"]]
            median = [statistics.median(column) for column in zip(*of)]
            ratio = [statistics.median(q / r for q, r in zip(*pair)) for pair in zip(zip(*own), zip(*of))]
            result.append({"npl": n, "engine": name, "s_pp": median[0], "s_tg": median[1], "s": median[2], "ratio": ratio})
            cells = " ".join(f"{rate:>9.2f}" for rate in median)
            print(f"{n:>4} {name:<10} {cells}   {', '.join(f'{r:.2f}×' for r in ratio)}")
    if "llama.cpp" not in engines:
        print("skipped: llama.cpp: give --llama-python an interpreter that has llama-cpp-python")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"rows": result, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
