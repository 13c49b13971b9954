"""Packed tensors of small linear layers in every scheme that is read, each with the weights that they stand for.

Called by quant_vectors.py. A case is a prefix: `case.qweight`, ..., and `case.expected` f32 [N, K]. Cases of static int8
activations have `case.x` f32 [T, K] and `case.y` f64 [T, N] as well.
"""

import importlib.util

import numpy as np
import torch
from compressed_tensors.compressors import FloatQuantizationCompressor, IntQuantizationCompressor
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

PLAIN = "numpy, written from the definition of the format"
N, K = 16, 96


def words(codes, bits):
    """A dense little-endian bit stream per row: codes [R, C] to i32 [R, ceil(C*bits/32)]."""
    rows, count = codes.shape
    stream = (codes[:, :, None].astype(np.uint64) >> np.arange(bits, dtype=np.uint64)) & 1
    stream = stream.reshape(rows, count * bits).astype(np.uint8)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    return np.packbits(stream, axis=1, bitorder="little").view("<i4").copy()


def scales(rng, *shape):
    return rng.uniform(0.001, 0.1, shape).astype(np.float16)


def gptq(rng, bits, group, version, symmetric=False, act_order=False, bias=False, k=K):
    groups = -(-k // group)
    codes = rng.integers(0, 1 << bits, (N, k))
    zeros = rng.integers(0, 1 << bits, (N, groups))
    if symmetric:
        zeros[:] = 1 << bits - 1
    index = np.arange(k) // group
    if act_order:
        index = rng.permutation(index)
    s = scales(rng, N, groups)
    stored = (zeros - 1) % (1 << bits) if version == 1 else zeros
    out = {
        "qweight": words(codes, bits).T.copy(),
        "qzeros": words(stored.T, bits),
        "scales": s.T.copy(),
        "g_idx": index.astype(np.int32),
        "expected": (codes - zeros[:, index]).astype(np.float32) * s.astype(np.float32)[:, index],
    }
    if bias:
        out["bias"] = scales(rng, N)
    return out, PLAIN


def gptq_by_autoawq(rng, packing):
    """AutoAWQ's own way from AWQ's packing to GPTQ v1's."""
    group = 32
    qweight = torch.tensor(rng.integers(-(1 << 31), 1 << 31, (K, N // 8)), dtype=torch.int32)
    nibbles = rng.integers(1, 16, (K // group, N // 8, 8))
    zeros = (nibbles.astype(np.uint64) << (4 * np.arange(8, dtype=np.uint64))).sum(-1).astype(np.uint32)
    qzeros = torch.tensor(zeros.view(np.int32))
    s = scales(rng, K // group, N)
    weights = packing.dequantize_gemm(qweight, qzeros, torch.tensor(s).float(), 4, group)
    packed, packed_zeros = packing.unpack_reorder_pack(qweight, qzeros, 4)
    tensors = {"qweight": packed.numpy(), "qzeros": packed_zeros.numpy(), "scales": s}
    return {**tensors, "expected": weights.numpy().T.copy()}, "AutoAWQ's unpack_reorder_pack and dequantize_gemm"


def awq_gemm(rng, packing, group):
    groups = K // group
    qweight = rng.integers(-(1 << 31), 1 << 31, (K, N // 8)).astype(np.int32)
    qzeros = rng.integers(-(1 << 31), 1 << 31, (groups, N // 8)).astype(np.int32)
    s = scales(rng, groups, N)
    args = torch.tensor(qweight), torch.tensor(qzeros), torch.tensor(s).float()
    weights = packing.dequantize_gemm(*args, 4, group).numpy().T.copy()
    return {"qweight": qweight, "qzeros": qzeros, "scales": s, "expected": weights}, "AutoAWQ's dequantize_gemm"


def awq_gemv(rng):
    group, width = 32, 4
    groups = K // group
    codes, zeros = rng.integers(0, 16, (N, K)), rng.integers(0, 16, (N, groups))
    s = np.zeros((N, 8 * width), np.float16)
    s[:, :groups] = scales(rng, N, groups)
    qzeros = np.zeros((N, width), np.int32)
    qzeros[:, :1] = words(zeros, 4)
    index = np.arange(K) // group
    weights = (codes - zeros[:, index]).astype(np.float32) * s.astype(np.float32)[:, index]
    return {"qweight": words(codes, 4), "qzeros": qzeros, "scales": s, "expected": weights}, PLAIN


def compressed(rng, compressor, scale_shape, args, zero_range=None, act_order=False, k=K):
    """A layer compressed and decompressed by compressed-tensors; scales in f32, so that products round once."""
    weights = torch.tensor(rng.normal(0, 0.05, (N, k)), dtype=torch.float32)
    state = {"weight": weights, "weight_scale": torch.tensor(rng.uniform(0.004, 0.02, scale_shape), dtype=torch.float32)}
    if zero_range:
        zeros = torch.tensor(rng.integers(*zero_range, scale_shape), dtype=torch.int8)
        state["weight_zero_point"] = zeros
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    packed = compressor.compress(state, scheme)
    expected = compressor.decompress(packed, scheme)["weight"]
    out = {name: tensor.clone() for name, tensor in packed.items()}
    out["expected"] = expected.float()
    if act_order:
        index = rng.permutation(np.arange(k) // args["group_size"])
        codes = decoded_codes(packed["weight_packed"].numpy(), args["num_bits"], k)
        out["weight_g_idx"] = torch.tensor(index, dtype=torch.int32)
        s = state["weight_scale"].numpy()[:, index]
        out["expected"] = torch.tensor((codes - (1 << args["num_bits"] - 1)).astype(np.float32) * s)
    return out, "compressed-tensors" + (", its scales gathered by numpy" if act_order else "")


def decoded_codes(packed, bits, k):
    stream = np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little")[:, : k * bits]
    return (stream.reshape(packed.shape[0], k, bits) << np.arange(bits)).sum(-1)


def static_int8(rng, zero):
    codes = rng.integers(-127, 128, (N, K)).astype(np.int8)
    s = scales(rng, N, 1).astype(np.float32)
    sx, bias = np.float32(0.03), scales(rng, N)
    x = rng.normal(0, 1, (5, K)).astype(np.float32)
    xq = np.clip(np.rint(x.astype(np.float64) / np.float64(sx) + zero), -128, 127)
    weights = codes.astype(np.float32) * s
    y = ((xq - zero) * np.float64(sx)) @ weights.astype(np.float64).T + bias.astype(np.float64)
    tensors = {
        "weight": codes, "weight_scale": s, "input_scale": np.array([sx]), "bias": bias,
        "input_zero_point": np.array([zero], np.int8), "expected": weights, "x": x, "y": y,
    }  # fmt: skip
    return tensors, PLAIN


def ascend_static(rng, bits_in_i64):
    codes = rng.integers(-127, 128, (N, K)).astype(np.int8)
    sx, offset = np.float32(0.025), np.float32(-9)
    deq = (rng.uniform(0.001, 0.1, N) * sx).astype(np.float32)
    bias = rng.normal(0, 1, N)
    quant_bias = np.rint(bias / deq - offset * codes.sum(1, dtype=np.int64)).astype(np.int32)
    x = rng.normal(0, 1, (5, K)).astype(np.float32)
    xq = np.clip(np.rint(x.astype(np.float64) / np.float64(sx) + offset), -128, 127)
    y = (xq @ codes.astype(np.float64).T + quant_bias) * deq.astype(np.float64)
    stored = deq.view(np.uint32).astype(np.int64) if bits_in_i64 else deq
    tensors = {
        "weight": codes, "deq_scale": stored, "quant_bias": quant_bias, "input_scale": np.array([sx]),
        "input_offset": np.array([offset]), "bias": bias.astype(np.float32),
        "expected": codes.astype(np.float32) * (deq.astype(np.float64) / np.float64(sx)).astype(np.float32)[:, None],
        "x": x, "y": y,
    }  # fmt: skip
    return tensors, PLAIN


def ascend_scaled(rng, groups, offsets):
    codes = rng.integers(-127, 128, (N, K)).astype(np.int8)
    s = scales(rng, N, groups).astype(np.float32)
    o = rng.integers(-9, 9, (N, groups)).astype(np.float32) if offsets else np.zeros((N, groups), np.float32)
    index = np.arange(K) // (K // groups)
    weights = (codes.astype(np.float32) - o[:, index]) * s[:, index]
    return {"weight": codes, "weight_scale": s, "weight_offset": o, "expected": weights}, PLAIN


def deepseek_fp8(rng):
    """One and a third blocks of 12 rows, two and a half of 32 columns."""
    k = 80
    codes = torch.tensor(rng.normal(0, 100, (N, k)), dtype=torch.float32).to(torch.float8_e4m3fn)
    s = torch.tensor(rng.uniform(1e-4, 1e-3, (2, 3)), dtype=torch.float32)
    full = s.repeat_interleave(12, 0)[:N].repeat_interleave(32, 1)[:, :k]
    return {"weight": codes, "weight_scale_inv": s, "expected": codes.float() * full}, "torch"


def cases(autoawq):
    spec = importlib.util.spec_from_file_location("packing_utils", f"{autoawq}/awq/utils/packing_utils.py")
    packing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packing)
    rng = np.random.default_rng(20260)
    group = {"strategy": "group", "group_size": 32}
    packed, ints, floats = PackedQuantizationCompressor, IntQuantizationCompressor, FloatQuantizationCompressor
    return {
        "gptq2": gptq(rng, 2, 32, 1),
        "gptq3": gptq(rng, 3, 32, 1),
        "gptq4": gptq(rng, 4, 32, 1, bias=True),
        "gptq4_v2": gptq(rng, 4, 32, 2),
        "gptq4_autoawq": gptq_by_autoawq(rng, packing),
        "gptq4_symmetric": gptq(rng, 4, 32, 1, symmetric=True),
        "gptq4_act_order": gptq(rng, 4, 32, 1, symmetric=True, act_order=True),
        "gptq4_one_group": gptq(rng, 4, K, 1),
        "gptq4_short_group": gptq(rng, 4, 64, 1),
        "gptq8": gptq(rng, 8, 32, 1),
        "gptq8_symmetric": gptq(rng, 8, 32, 2, symmetric=True),
        "awq_gemm": awq_gemm(rng, packing, 32),
        "awq_gemm_one_group": awq_gemm(rng, packing, K),
        "awq_gemv": awq_gemv(rng),
        "packed4": compressed(rng, packed, (N, 3), {"num_bits": 4, "symmetric": True, **group}),
        "packed4_zeros": compressed(rng, packed, (N, 3), {"num_bits": 4, "symmetric": False, **group}, (-8, 8)),
        "packed4_act_order": compressed(
            rng, packed, (N, 3), {"num_bits": 4, "symmetric": True, **group}, act_order=True
        ),
        "packed4_tensor": compressed(rng, packed, (1,), {"num_bits": 4, "symmetric": True, "strategy": "tensor"}),
        "packed8": compressed(rng, packed, (N, 1), {"num_bits": 8, "symmetric": True, "strategy": "channel"}),
        "packed3_zeros": compressed(
            rng, packed, (N, 1), {"num_bits": 3, "symmetric": False, "strategy": "channel"}, (-4, 4), k=92
        ),
        "packed5": compressed(rng, packed, (N, 1), {"num_bits": 5, "symmetric": True, "strategy": "channel"}, k=91),
        "int8": compressed(rng, ints, (N, 1), {"num_bits": 8, "symmetric": True, "strategy": "channel"}),
        "int8_zeros": compressed(
            rng, ints, (N, 1), {"num_bits": 8, "symmetric": False, "strategy": "channel"}, (-60, 60)
        ),
        "int8_static": static_int8(rng, -11),
        "fp8_channel": compressed(
            rng, floats, (N, 1), {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
        ),
        "fp8_tensor": compressed(
            rng, floats, (1,), {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
        ),
        "fp8_block": deepseek_fp8(rng),
        "ascend_static": ascend_static(rng, False),
        "ascend_static_i64": ascend_static(rng, True),
        "ascend_dynamic": ascend_scaled(rng, 1, False),
        "ascend_dynamic_offsets": ascend_scaled(rng, 1, True),
        "ascend_w8a16_groups": ascend_scaled(rng, 3, True),
    }


def tensors(autoawq):
    """All cases in one, and who made each."""
    out, makers = {}, {}
    for case, (parts, maker) in cases(autoawq).items():
        makers[case] = maker
        for suffix, tensor in parts.items():
            out[f"{case}.{suffix}"] = torch.as_tensor(np.ascontiguousarray(tensor)) if isinstance(
                tensor, np.ndarray
            ) else tensor.contiguous()
    return out, makers
