"""The squared errors of ggml's encoders on the inputs of crates/quant/tests/inputs: what Qiao's are held to.

Called by quant_vectors.py. The inputs are made of integers, so that Rust and Python make the same ones bit for bit.
"""

import ctypes

import gguf
import numpy as np

LENGTH = 8192
TYPES = {
    "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1", "q8_0": "Q8_0", "q2_k": "Q2_K", "q3_k": "Q3_K",
    "q4_k": "Q4_K", "q5_k": "Q5_K", "q6_k": "Q6_K", "iq4_nl": "IQ4_NL", "iq4_xs": "IQ4_XS", "mxfp4": "MXFP4",
}  # fmt: skip
NAMES = ["normal", "heavy", "constant", "outlier", "tiny", "shifted"]


class SplitMix:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def normal(self):
        """Twelve 16-bit uniforms, summed and centred: variance 1, exact in f32."""
        total = 0
        for _ in range(3):
            z = self.next()
            total += (z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48)
        return (total - 393210) / 65536.0


def inputs(name):
    """Elements and importances."""
    r = SplitMix(NAMES.index(name) + 1)
    x, w = np.empty(LENGTH), np.empty(LENGTH)
    for i in range(LENGTH):
        n = r.normal()
        x[i] = {
            "normal": n,
            "heavy": n * n * n,
            "constant": (i // 256 - 15.5) / 16.0,
            "outlier": 8.0 if i % 256 == 77 else n / 16.0,
            "tiny": n / 1048576.0,
            "shifted": n / 4.0 + 1.5,
        }[name]
        n = r.normal()
        w[i] = n * n + 0.0078125
    return x.astype(np.float32), w.astype(np.float32)


def errors(library):
    """Lines `dtype input plain|weighted error`."""
    ggml = ctypes.CDLL(library)
    chunk = ggml.ggml_quantize_chunk
    floats = ctypes.POINTER(ctypes.c_float)
    chunk.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, floats]
    chunk.restype = ctypes.c_size_t
    lines = ["# dtype, input, weighing, the sum of (weighted) squared errors of ggml's encoder"]
    for name in NAMES:
        x, w = inputs(name)
        for ours, theirs in TYPES.items():
            kind = gguf.GGMLQuantizationType[theirs]
            for weighing in ["plain", "weighted"]:
                elems, size = gguf.GGML_QUANT_SIZES[kind]
                out = np.zeros(LENGTH // elems * size, np.uint8)
                weights = w.ctypes.data_as(floats) if weighing == "weighted" else None
                chunk(int(kind), x.ctypes.data_as(floats), out.ctypes.data, 0, 1, LENGTH, weights)
                back = gguf.dequantize(out, kind).astype(np.float64)
                weigh = w.astype(np.float64) if weighing == "weighted" else 1.0
                error = float((weigh * (x.astype(np.float64) - back) ** 2).sum())
                lines.append(f"{ours} {name} {weighing} {error!r}")
    return "\n".join(lines) + "\n"
