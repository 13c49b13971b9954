"""Write a full-size checkpoint with random weights, for speed and memory checks where no download is wanted.

    python3 -m venv .venv && .venv/bin/pip install -r tools/requirements.txt     (numpy is enough)
    .venv/bin/python tools/random_checkpoint.py --shape qwen2.5-0.5b --dtype bf16 --out models/qwen2.5-0.5b-bf16
    .venv/bin/python tools/random_checkpoint.py --shape llama-3.2-1b --dtype f16 --out models/l1b --shards 3
    ... --gguf FILE      the same weights once more as GGUF, so that llama.cpp runs the same model
    ... --tiled          the same million numbers again and again: as fast as the disk, for sizes where speed alone counts
    ... --blocks q8_0 --gguf FILE      a GGUF file of random Q8_0 or Q4_K blocks alone, no folder: speed alone

The folder has the layout of a published checkpoint: config.json (older keys, as those models were published),
generation_config.json, model.safetensors or shards with an index, and the small tokenizer of
fixtures/tokenizer-bytelevel, whose ids are a part of the vocabulary. The text such a model gives is noise.

Weights are normal, with a spread that keeps activations near 1 in every layer. They depend on --seed and the
tensor's name alone, so every dtype and sharding holds the same model up to rounding. Tensors are drawn and written
in pieces: memory stays below about 200 MB (for GGUF the written files are mapped). Every file is written beside its place and renamed
when it is whole, config.json last: a folder that has it, and a GGUF file that is there, are whole.
"""

import argparse
import functools
import json
import math
import pathlib
import shutil
import struct
import sys
import zlib

import numpy as np

import gguf_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
PIECE = 1 << 22  # elements drawn at a time
TILE = 1 << 20  # elements that are repeated
SIZES = {"bf16": 2, "f16": 2, "f32": 4}
NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}

SHAPES = {
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "attention_bias": False,
        "max_window_layers": 28,
        "sliding_window": None,
        "use_sliding_window": False,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
    "llama-3.2-1b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rms_norm_eps": 1e-5,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
    },
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rms_norm_eps": 1e-5,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "tie_word_embeddings": False,
    },
}
EVERYWHERE = {"hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02, "tie_word_embeddings": True}


def tensors(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors in file order."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes[at + "input_layernorm.weight"] = (hidden,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            shapes[at + f"self_attn.{name}_proj.weight"] = (rows, hidden)
            if config["model_type"] == "qwen2":
                shapes[at + f"self_attn.{name}_proj.bias"] = (rows,)
        if config["model_type"] == "qwen3":
            shapes[at + "self_attn.q_norm.weight"] = shapes[at + "self_attn.k_norm.weight"] = (head,)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, q)
        shapes[at + "post_attention_layernorm.weight"] = (hidden,)
        shapes[at + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[at + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[at + "mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def spread(name: str, shape: tuple[int, ...], layers: int) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's elements."""
    if name.endswith("norm.weight"):
        return 1.0, 0.05
    if name.endswith(".bias"):
        return 0.0, 0.1
    if "embed_tokens" in name:
        return 0.0, 1.0 / math.sqrt(shape[1])
    branch = 1.0 / math.sqrt(2 * layers) if "o_proj" in name or "down_proj" in name else 1.0
    return 0.0, branch / math.sqrt(shape[1])


def cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round f32 to the stored type; bf16 is given as its bits, rounded to nearest even."""
    if dtype != "bf16":
        return values.astype(np.float16 if dtype == "f16" else np.float32)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def pieces(name: str, shape: tuple[int, ...], layers: int, seed: int, dtype: str, tiled: bool):
    """Draw a tensor's elements as they are stored, in row-major order, PIECE at a time; tiled: one TILE over and over."""
    generator = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    mean, deviation = spread(name, shape, layers)
    left = math.prod(shape)
    stored = None
    while left:
        if stored is None or not tiled:
            values = generator.standard_normal(min(left, TILE if tiled else PIECE), dtype=np.float32)
            values *= np.float32(deviation)
            values += np.float32(mean)
            stored = cast(values, dtype)
        part = stored[:left]
        left -= part.size
        yield part


def write_shard(path: pathlib.Path, shapes: dict, dtype: str, layers: int, seed: int, tiled: bool) -> None:
    """Write one safetensors file: header length, header, then the tensors in header order."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype.upper(), "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with part_of(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for values in pieces(name, shape, layers, seed, dtype, tiled):
                values.tofile(file)
    part_of(path).replace(path)


def part_of(path: pathlib.Path) -> pathlib.Path:
    """Where a file is written before it is whole."""
    return path.with_name(path.name + ".part")


def split(shapes: dict, count: int) -> list[dict]:
    """Cut the list of tensors into `count` runs of about equal size, none of them empty."""
    names = list(shapes)
    if count > len(names):
        raise SystemExit(f"--shards {count}: the model has {len(names)} tensors, so give at most that many")
    left, parts = sum(map(math.prod, shapes.values())), []
    for remaining in range(count, 0, -1):
        part, size = {}, 0
        while len(names) >= remaining and (not part or remaining == 1 or size < left / remaining):
            name = names.pop(0)
            part[name] = shapes[name]
            size += math.prod(shapes[name])
        left -= size
        parts.append(part)
    return parts


def write_checkpoint(out: pathlib.Path, config: dict, args) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "config.json", *out.glob("model*.safetensors*")):
        old.unlink(missing_ok=True)
    shapes = tensors(config)
    parts = split(shapes, args.shards)
    weight_map = {}
    for index, part in enumerate(parts):
        numbered = f"model-{index + 1:05}-of-{len(parts):05}.safetensors"
        file = "model.safetensors" if args.shards == 1 else numbered
        write_shard(out / file, part, args.dtype, config["num_hidden_layers"], args.seed, args.tiled)
        weight_map |= dict.fromkeys(part, file)
    total = sum(map(math.prod, shapes.values())) * SIZES[args.dtype]
    if args.shards > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(out / "model.safetensors.index.json", index)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id")} | {"do_sample": False}
    write_json(out / "generation_config.json", generation)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(ROOT / "fixtures/tokenizer-bytelevel" / file, out / file)
    # The mark of a whole folder.
    write_json(out / "config.json", config)
    print(f"{out}: {len(shapes)} tensors, {total / 1e6:.0f} MB in {args.dtype}, {len(parts)} file(s)")


def write_json(path: pathlib.Path, value) -> None:
    part_of(path).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    part_of(path).replace(path)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    return f"blk.{layer}.{parts[part]}.{kind}"


def llama3_factors(config: dict) -> np.ndarray:
    """Divisors of the rope frequencies, which llama.cpp takes as a tensor (the rule is that of rope type llama3)."""
    scaling = config["rope_scaling"]
    head = config["head_dim"]
    wave = 2 * math.pi * config["rope_theta"] ** (np.arange(0, head, 2) / head)
    low, high, context = (
        scaling[k] for k in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    smooth = np.clip((context / wave - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / scaling["factor"] + smooth)).astype(np.float32)


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a q or k projection in the order of llama.cpp's llama, which rotates neighbouring pairs."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def stored(out: pathlib.Path):
    """Map every tensor of a written checkpoint: (name, array); bf16 as its bits."""
    kinds = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
    for path in sorted(out.glob("model*.safetensors")):
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start = 8 + length + entry["data_offsets"][0]
            shape = tuple(entry["shape"])
            yield name, np.memmap(path, dtype=kinds[entry["dtype"]], mode="r", offset=start, shape=shape)


def widened(values: np.ndarray) -> np.ndarray:
    """f32 of a stored array."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def gguf_tokenizer(file: gguf_file.GgufFile, config: dict) -> None:
    """The small tokenizer, filled up to the model's vocabulary with unused entries."""
    tokenizer = json.loads((ROOT / "fixtures/tokenizer-bytelevel/tokenizer.json").read_text(encoding="utf-8"))
    size = config["vocab_size"]
    tokens = [f"[unused{i}]" for i in range(size)]
    kinds = [gguf_file.UNUSED] * size
    for token, index in tokenizer["model"]["vocab"].items():
        tokens[index], kinds[index] = token, gguf_file.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = gguf_file.CONTROL if added["special"] else gguf_file.USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    eos = config["eos_token_id"]
    file.text("tokenizer.ggml.model", "gpt2")
    file.text("tokenizer.ggml.pre", "llama-bpe" if config["model_type"] == "llama" else "qwen2")
    file.array("tokenizer.ggml.tokens", "text", tokens)
    file.array("tokenizer.ggml.token_type", "i32", kinds)
    file.array("tokenizer.ggml.merges", "text", merges)
    file.number("tokenizer.ggml.bos_token_id", "u32", config["bos_token_id"])
    file.number("tokenizer.ggml.eos_token_id", "u32", eos[0] if isinstance(eos, list) else eos)
    file.number("tokenizer.ggml.add_bos_token", "bool", False)


def gguf_of(path: pathlib.Path, config: dict, dtype: str) -> gguf_file.GgufFile:
    """A file with the model's shape and tokenizer, and no weights yet."""
    kind = config["model_type"]
    file = gguf_file.GgufFile(path, kind)
    file.text("general.name", path.stem)
    file.number("general.file_type", "u32", gguf_file.FILE_TYPES[dtype])
    sizes = {
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "vocab_size": "vocab_size",
        "attention.key_length": "head_dim",
        "attention.value_length": "head_dim",
    }
    for key, name in sizes.items():
        if name in config:
            file.number(f"{kind}.{key}", "u32", config[name])
    file.number(f"{kind}.rope.freq_base", "f32", config["rope_theta"])
    file.number(f"{kind}.attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"])
    if kind == "llama":
        file.number("llama.rope.dimension_count", "u32", config["head_dim"])
        factors = llama3_factors(config)
        file.tensor("rope_freqs.weight", factors.shape, "f32", lambda: [factors])
    gguf_tokenizer(file, config)
    return file


def finish(file: gguf_file.GgufFile) -> None:
    file.write()
    print(f"{file.path}: {file.path.stat().st_size / 1e6:.0f} MB")


def blocks(kind: str, count: int, deviation: float, seed: list[int]):
    """`count` blocks of random codes whose values have about this spread: Q8_0 of 32 weights, Q4_K of 256; the same ones repeat."""
    generator = np.random.Generator(np.random.SFC64(seed))
    size, scales = {"q8_0": (34, [deviation / 73.9]), "q4_k": (144, [deviation / 190, deviation / 25])}[kind]
    raw = np.frombuffer(generator.bytes(min(count, 1 << 16) * size), dtype=np.uint8).reshape(-1, size).copy()
    raw[:, : 2 * len(scales)] = np.array(scales, dtype=np.float16).view(np.uint8)
    while count:
        yield raw[:count]
        count -= len(raw[:count])


def write_blocks(path: pathlib.Path, config: dict, kind: str, seed: int) -> None:
    """Write a GGUF file whose matrices are random blocks; vectors are f32 as drawn."""
    layers, elements = config["num_hidden_layers"], gguf_file.TYPES[kind][1]
    file = gguf_of(path, config, kind)
    for name, shape in tensors(config).items():
        if len(shape) == 1:
            parts = functools.partial(pieces, name, shape, layers, seed, "f32", False)
            file.tensor(gguf_name(name), shape, "f32", parts)
        else:
            count, deviation = math.prod(shape) // elements, spread(name, shape, layers)[1]
            parts = functools.partial(blocks, kind, count, deviation, [seed, zlib.crc32(name.encode())])
            file.tensor(gguf_name(name), shape, kind, parts)
    finish(file)


def write_gguf(path: pathlib.Path, out: pathlib.Path, config: dict, dtype: str) -> None:
    """Repeat the checkpoint's weights as GGUF: matrices as stored, vectors in f32."""
    kind = config["model_type"]
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    file = gguf_of(path, config, dtype)

    def parts(part: str, values: np.ndarray):
        if kind == "llama" and part in heads:
            values = interleaved(values, heads[part])
        yield widened(values) if values.ndim == 1 else values

    for name, values in stored(out):
        stored_as = "f32" if values.ndim == 1 else dtype
        file.tensor(gguf_name(name), values.shape, stored_as, functools.partial(parts, name.split(".")[-2], values))
    finish(file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--dtype", choices=sorted(SIZES), default="bf16")
    parser.add_argument("--out", type=pathlib.Path, help="folder to write")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--gguf", type=pathlib.Path, help="also write this GGUF file")
    parser.add_argument("--tiled", action="store_true", help="repeat a few million numbers: quick, for speed alone")
    parser.add_argument("--blocks", choices=["q8_0", "q4_k"], help="only a GGUF file, of random blocks")
    args = parser.parse_args()
    if args.shards < 1:
        parser.error(f"--shards {args.shards}: give 1 or more")
    config = EVERYWHERE | SHAPES[args.shape] | {"torch_dtype": NAMES[args.dtype], "use_cache": True}
    if args.layers:
        config["num_hidden_layers"] = args.layers
    if args.blocks:
        if not args.gguf or args.out:
            parser.error("--blocks: give --gguf FILE, and no --out")
        write_blocks(args.gguf, config, args.blocks, args.seed)
        return 0
    if not args.out:
        parser.error("give --out DIR")
    write_checkpoint(args.out, config, args)
    if args.gguf:
        write_gguf(args.gguf, args.out, config, args.dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
