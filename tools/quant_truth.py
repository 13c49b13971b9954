#!/usr/bin/env python3
"""How far the logits of Qiao and of llama.cpp are from the truth in f64, for the same GGUF files.

    python3 tools/random_checkpoint.py --shape qwen2.5-0.5b --dtype bf16 --out /tmp/m --gguf /tmp/m.gguf
    cargo build --release -p qiao-cli
    python3 tools/quant_truth.py /tmp/m.gguf --work /tmp/truth --table /tmp/truth/table.md

llama.cpp's own quantiser makes F16, Q8_0, Q4_0 and Q4_K_M of the file. For each of them the truth is a forward pass in
f64 over the weights as the `gguf` package decodes them: what an engine without any rounding would say. Qiao reads the
file with `qiao compare FILE --golden TRUTH`; llama.cpp through the `llama-cpp-python` package (built from source with
CMAKE_ARGS=-DGGML_NATIVE=ON), once with its usual f16 cache and once with one in f32. `--llama-python` names the
interpreter that has both packages, and safetensors. Every engine is given the same tokens; errors are over all
positions and the whole vocabulary, and the figures of all are computed by the same lines (`figures`).
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# llama_ftype, as llama.h numbers them.
FORMATS = {"F16": 1, "Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}

PEER = r"""
import ctypes, json, sys
import numpy as np
import gguf
from gguf.quants import dequantize

def quantise(source, out, ftype):
    import llama_cpp
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 2
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)):
        sys.exit(f"llama.cpp does not quantise {source} to type {ftype}")

def logits(path, ids, wide):
    from llama_cpp import Llama
    kind = {"type_k": 0, "type_v": 0} if wide else {}
    llm = Llama(path, n_ctx=len(ids) + 8, n_threads=2, n_threads_batch=2, logits_all=True, verbose=False, **kind)
    llm.eval(ids)
    return np.array(llm.scores[:len(ids)], dtype=np.float32)

class Model:
    def __init__(self, path):
        r = gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in r.tensors}
        field = lambda key: r.fields[key].contents() if key in r.fields else None
        arch = field("general.architecture")
        at = lambda key: field(f"{arch}.{key}")
        self.layers, self.heads = at("block_count"), at("attention.head_count")
        self.kv_heads = at("attention.head_count_kv") or self.heads
        self.eps, self.base = at("attention.layer_norm_rms_epsilon"), at("rope.freq_base") or 10000.0
        self.dim = at("attention.key_length") or at("embedding_length") // self.heads
        self.adjacent = arch == "llama"

    def get(self, name):
        t = self.tensors.get(name)
        if t is None:
            return None
        shape = tuple(int(n) for n in reversed(t.shape))
        return np.asarray(dequantize(t.data, t.tensor_type)).reshape(shape).astype(np.float64)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.get(name + ".weight")

    def linear(self, x, name):
        bias = self.get(name + ".bias")
        y = x @ self.get(name + ".weight").T
        return y if bias is None else y + bias

    def rope(self, x):
        half, t = self.dim // 2, x.shape[0]
        factors = self.get("rope_freqs.weight")
        freq = self.base ** (-np.arange(half) * 2.0 / self.dim)
        freq = freq if factors is None else freq / factors
        angle = np.arange(t)[:, None, None] * freq
        c, s = np.cos(angle), np.sin(angle)
        a, b = (x[..., 0::2], x[..., 1::2]) if self.adjacent else (x[..., :half], x[..., half:])
        out = np.empty_like(x)
        first, second = a * c - b * s, a * s + b * c
        if self.adjacent:
            out[..., 0::2], out[..., 1::2] = first, second
        else:
            out[..., :half], out[..., half:] = first, second
        return out

    def forward(self, ids):
        t = len(ids)
        table = self.get("token_embd.weight")
        h = table[ids]
        mask = np.triu(np.full((t, t), -np.inf), 1)
        for i in range(self.layers):
            p = f"blk.{i}."
            x = self.norm(h, p + "attn_norm")
            q = self.linear(x, p + "attn_q").reshape(t, self.heads, self.dim)
            k = self.linear(x, p + "attn_k").reshape(t, self.kv_heads, self.dim)
            v = self.linear(x, p + "attn_v").reshape(t, self.kv_heads, self.dim)
            if p + "attn_q_norm.weight" in self.tensors:
                q, k = self.norm(q, p + "attn_q_norm"), self.norm(k, p + "attn_k_norm")
            q, k = self.rope(q), self.rope(k)
            k, v = (np.repeat(z, self.heads // self.kv_heads, axis=1) for z in (k, v))
            s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.dim) + mask
            w = np.exp(s - s.max(-1, keepdims=True))
            w /= w.sum(-1, keepdims=True)
            y = np.einsum("hqk,khd->qhd", w, v).reshape(t, -1)
            h = h + self.linear(y, p + "attn_output")
            x = self.norm(h, p + "ffn_norm")
            gate = self.linear(x, p + "ffn_gate")
            h = h + self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, p + "ffn_up"), p + "ffn_down")
        x = self.norm(h, "output_norm")
        head = self.get("output.weight")
        return x @ (table if head is None else head).T

def figures(ours, truth):
    d = ours.astype(np.float64) - truth
    log = lambda z: z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
    lp, lq = log(truth), log(ours.astype(np.float64))
    kl = (np.exp(lp) * (lp - lq)).sum(-1)
    return {"rms": float(np.sqrt((d * d).mean() / (truth * truth).mean())), "max": float(np.abs(d).max()),
            "kl_mean": float(kl.mean()), "kl_max": float(kl.max()),
            "top1": float((ours.argmax(-1) == truth.argmax(-1)).mean())}

job = json.loads(sys.argv[1])
if job["do"] == "quantise":
    quantise(job["source"], job["out"], job["ftype"])
elif job["do"] == "truth":
    from safetensors.numpy import save_file
    truth = Model(job["model"]).forward(job["ids"])
    np.save(job["out"] + ".npy", truth)
    save_file({"input_ids": np.array(job["ids"], dtype=np.int64), "logits": truth.astype(np.float32)}, job["out"])
elif job["do"] == "llama":
    print(json.dumps(figures(logits(job["model"], job["ids"], job["wide"]), np.load(job["truth"] + ".npy"))))
elif job["do"] == "qiao":
    v = np.fromfile(job["logits"], dtype="<f4")
    print(json.dumps(figures(v.reshape(len(job["ids"]), -1), np.load(job["truth"] + ".npy"))))
"""


def ask(python, **job):
    done = subprocess.run([python, "-c", PEER, json.dumps(job)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {job['do']} failed:\n{done.stderr[-3000:]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a GGUF file in f32, f16 or bf16")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for the quantised files and the truths")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--qiao", type=pathlib.Path, default=ROOT / "target/release/qiao")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--table", type=pathlib.Path, help="where to write the table, in Markdown")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    ids = [100 + i * 37 % 1000 for i in range(args.tokens)]
    rows = []
    for name in args.formats:
        file = args.work / f"{args.model.stem}-{name}.gguf"
        if not file.exists():
            ask(args.llama_python, do="quantise", source=str(args.model), out=str(file), ftype=FORMATS[name])
        truth = args.work / f"{file.stem}-{args.tokens}.safetensors"
        if not truth.exists():
            ask(args.llama_python, do="truth", model=str(file), ids=ids, out=str(truth))
        dump = args.work / "qiao.f32"
        command = [args.qiao, "compare", file, "--golden", truth, "--logits-out", dump, "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        # Status 4 says that the logits are not within the limits of the comparison, which is no failure here.
        if done.returncode not in (0, 4) or not dump.exists():
            sys.exit(f"error: {' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
        engines = {
            "Qiao": ask(args.llama_python, do="qiao", logits=str(dump), ids=ids, truth=str(truth)),
            "llama.cpp": ask(args.llama_python, do="llama", model=str(file), ids=ids, wide=False, truth=str(truth)),
            "llama.cpp, f32 cache": ask(args.llama_python, do="llama", model=str(file), ids=ids, wide=True, truth=str(truth)),
        }
        dump.unlink()
        for engine, f in engines.items():
            rows.append((name, engine, f))
            print(f"{name:8} {engine:22} rms {f['rms']:.3e}  max {f['max']:.3e}  KL {f['kl_mean']:.3e} (max {f['kl_max']:.3e})"
                  f"  top-1 {f['top1']:.4f}", flush=True)
    if args.table:
        write_table(args.table, args, rows)
    worse = [n for n in args.formats
             if min(f["rms"] for m, e, f in rows if m == n and e != "Qiao") <= next(f["rms"] for m, e, f in rows if (m, e) == (n, "Qiao"))]
    if worse:
        sys.exit(f"llama.cpp is as close or closer to the truth in {', '.join(worse)}")


def write_table(path, args, rows):
    lines = ["| file | engine | rms error / rms of logits | largest error | mean KL, nats | largest KL, nats | top-1 |",
             "|---|---|---|---|---|---|---|"]
    for name, engine, f in rows:
        lines.append(f"| {name} | {engine} | {f['rms']:.2e} | {f['max']:.2e} | {f['kl_mean']:.2e} | {f['kl_max']:.2e} | {f['top1']:.3f} |")
    path.write_text("\n".join(lines) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
