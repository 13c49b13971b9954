"""candle: an example of `benches`, which reads the same GGUF files; in bf16 it computes in f32, which its CPU has kernels for."""

import place as at

PEER = "candle"
FORMATS = {"bf16": "f32", "Q8_0": "Q8_0", "Q4_0": "Q4_0", "Q4_K_M": "Q4_K_M"}
IMPORTS_COUNT = True


def install(place):
    at.run(["cargo", "build", "--release", "-p", "qiao-benches", "--example", "candle_worker"], cwd=at.ROOT)


def missing(place):
    program = at.built("candle_worker")
    return None if program.exists() else f"{program} is not built: run 'install candle'"


def make(place, shape, kind):
    """Nothing: it reads the GGUF files."""


def command(place, shape, kind, threads, context, flags):
    return [at.built("candle_worker"), place.gguf(shape, kind), "--threads", threads, "--context", context]
