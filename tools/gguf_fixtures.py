"""Make the GGUF files of fixtures/gguf/ with gguf-py, and check files that Qiao writes against it.

    python3 -m venv .venv && .venv/bin/pip install -r tools/requirements.txt
    .venv/bin/python tools/gguf_fixtures.py                  makes the files
    .venv/bin/python tools/gguf_fixtures.py --check FILE     reads FILE with gguf-py and prints what it holds

    every-type.gguf             each metadata type and array type; one tensor of each type that Qiao reads
    every-type-v2.gguf          the same, stated as version 2
    aligned.gguf                general.alignment = 128
    big-endian.gguf             to be refused by name
    parts-0000{1,2,3}-of-00003.gguf   one file split into three
    files.json                  what each holds: metadata with types, tensors with type, shape (outermost first), bytes
    tokenizer-bytelevel.gguf    fixtures/tokenizer-bytelevel in the metadata of a file without tensors
    tokenizer-spm.gguf          fixtures/tokenizer-spm likewise, its merges as scores
    tokenizers.json             llama.cpp's ids of the texts of those fixtures, special tokens recognised, and of some texts
                                cut in each way that tokenizer.ggml.pre names; only made anew where the Python package
                                llama_cpp is there

`--check` is how the writer is held to an independent reader; `cargo run -p qiao-gguf --example write -- FILE` writes such
a file.
"""

import argparse
import json
import pathlib
import struct
import tempfile

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "gguf"

T, Q = GGUFValueType, GGMLQuantizationType
SCALARS = {
    T.UINT8: 200, T.INT8: -100, T.UINT16: 60000, T.INT16: -30000, T.UINT32: 4_000_000_000, T.INT32: -2_000_000_000,
    T.FLOAT32: 1.5, T.BOOL: True, T.STRING: "桥 is a bridge", T.UINT64: 2**63 + 1, T.INT64: -(2**62), T.FLOAT64: -2.25,
}
ARRAYS = {
    T.UINT8: [0, 255], T.INT8: [-128, 127], T.UINT16: [1, 65535], T.INT16: [-32768, 2], T.UINT32: [7, 2**32 - 1],
    T.INT32: [-1, 2**31 - 1], T.FLOAT32: [0.5, -0.125], T.BOOL: [True, False, True], T.STRING: ["", "Ġthe", "▁x"],
    T.UINT64: [2**64 - 1], T.INT64: [-(2**63)], T.FLOAT64: [1e300],
}
PLAIN = [Q.F32, Q.F16, Q.BF16, Q.F64, Q.I8, Q.I16, Q.I32, Q.I64]
BLOCKS = [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_NL, Q.IQ4_XS, Q.MXFP4]


def raw(kind, rows, columns, seed):
    """Bytes of rows of whole blocks; what they mean does not matter here."""
    elems, size = GGML_QUANT_SIZES[kind]
    return np.random.default_rng(seed).integers(0, 256, (rows, columns // elems * size), dtype=np.uint8)


def value(val, kind):
    return {"type": kind.name, "value": val}


class File:
    """A file in the making, and what it will hold."""

    def __init__(self, name, **options):
        self.name = name
        self.writer = GGUFWriter(None, "llama", **options)
        self.held = {"metadata": {"general.architecture": value("llama", T.STRING)}, "tensors": {}}

    def set(self, key, val, kind):
        self.writer.add_key_value(key, val, kind)
        self.held["metadata"][key] = value(val, kind)

    def array(self, key, val, kind):
        self.writer.add_key_value(key, val, T.ARRAY, sub_type=kind)
        self.held["metadata"][key] = {"type": "ARRAY", "of": kind.name, "value": val}

    def tensor(self, name, kind, rows, columns):
        data = raw(kind, rows, columns, len(self.held["tensors"]))
        self.writer.add_tensor(name, data, raw_dtype=kind)
        self.held["tensors"][name] = {"type": kind.name, "shape": [rows, columns], "bytes": data.tobytes().hex()}

    def close(self):
        self.writer.write_header_to_file(path=ROOT / f"{self.name}.gguf")
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return self.held


def every_type(name):
    file = File(name)
    for kind, val in SCALARS.items():
        file.set(f"scalar.{kind.name}", val, kind)
    for kind, val in ARRAYS.items():
        file.array(f"array.{kind.name}", val, kind)
    for kind in PLAIN:
        file.tensor(f"plain.{kind.name}", kind, 2, 3)
    for kind in BLOCKS:
        file.tensor(f"block.{kind.name}", kind, 2, GGML_QUANT_SIZES[kind][0])
    return file.close()


def version_2(held):
    """Versions 2 and 3 differ in the number alone, on little-endian machines."""
    data = bytearray((ROOT / "every-type.gguf").read_bytes())
    data[4:8] = struct.pack("<I", 2)
    (ROOT / "every-type-v2.gguf").write_bytes(data)
    return held


def aligned():
    file = File("aligned")
    file.writer.add_custom_alignment(128)
    file.held["metadata"]["general.alignment"] = value(128, T.UINT32)
    file.tensor("a", Q.F32, 1, 3)
    file.tensor("b", Q.Q8_0, 3, 32)
    return file.close()


def big_endian():
    file = File("big-endian", endianess=GGUFEndian.BIG)
    file.tensor("a", Q.I8, 1, 3)
    file.close()


def parts():
    file = File("parts", split_max_tensors=2)
    file.set("llama.block_count", 3, T.UINT32)
    for i in range(5):
        file.tensor(f"blk.{i}.attn_q.weight", Q.Q4_0 if i % 2 else Q.F16, i + 1, 32)
    return file.close()


# Ways to cut text, one name of each, and texts that they cut in different ways.
CUTS = ["gpt-2", "llama-bpe", "qwen2", "deepseek-r1-qwen", "smollm", "tekken", "deepseek-v3", "deepseek-coder", "default"]
CUT_TEXTS = [
    "It's what WE'VE got; they'LL say don't.",
    "The bridge  carries   three\tspaces\n\n and newlines \n",
    "1234567 and 4096, 3.14 or 50%",
    "def add(left, right):\n    return left+=right\n",
    "床前明月光，疑是地上霜。abc中文123",
    "CamelCaseWords and snake_case_words, $x^2 <= y|z~",
]


def tokenizer(name, kind, pre="qwen2", path=None):
    """The tokenizer of a fixture as converters write it; the file's path."""
    folder = ROOT.parent / name
    source = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = dict(source["model"]["vocab"])
    types = dict.fromkeys(tokens, 1)
    for added in source["added_tokens"]:
        tokens[added["content"]] = added["id"]
        types[added["content"]] = 3 if added["special"] else 4
    order = sorted(tokens, key=tokens.get)
    assert [tokens[token] for token in order] == list(range(len(order)))
    writer = GGUFWriter(None, "llama")
    merges = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in source["model"]["merges"]]
    if kind == "gpt2":
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(pair) for pair in merges])
    else:
        ranks = {}
        for rank, (left, right) in enumerate(merges):
            ranks.setdefault(left + right, rank)
        # As SentencePiece has it: merged pieces in their order, single characters after all of them.
        writer.add_token_scores([float(-ranks.get(token, len(merges))) for token in order])
        types |= {f"<0x{byte:02X}>": 6 for byte in range(256)} | {"<unk>": 2}
    writer.add_tokenizer_model(kind)
    writer.add_token_list(order)
    writer.add_token_types([types[token] for token in order])
    for role, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
                      ("unk_token", writer.add_unk_token_id), ("pad_token", writer.add_pad_token_id)):
        if config.get(role):
            add(tokens[config[role]])
    if config.get("chat_template"):
        writer.add_chat_template(config["chat_template"])
    # What llama.cpp asks of any file.
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    path = path or ROOT / f"{name}.gguf"
    writer.write_header_to_file(path=path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def second_opinion(paths):
    """llama.cpp's ids of the golden texts, where its package is there."""
    try:
        from llama_cpp import Llama
    except ImportError:
        print("llama_cpp is not there: tokenizers.json stays as it is")
        return

    def ids(path, texts):
        llama = Llama(str(path), vocab_only=True, verbose=False)
        return [{"text": text, "ids": llama.tokenize(text.encode(), add_bos=False, special=True)} for text in texts]

    held = {}
    for path in paths:
        golden = json.loads((ROOT.parent / path.stem / "golden.json").read_text())
        held[path.stem] = ids(path, [case["text"] for case in golden["encode"]])
    with tempfile.TemporaryDirectory() as folder:
        made = {pre: tokenizer("tokenizer-bytelevel", "gpt2", pre, pathlib.Path(folder, f"{pre}.gguf")) for pre in CUTS}
        held["cuts"] = {pre: ids(path, CUT_TEXTS) for pre, path in made.items()}
    (ROOT / "tokenizers.json").write_text(json.dumps(held, ensure_ascii=False) + "\n")


def make():
    ROOT.mkdir(parents=True, exist_ok=True)
    held = {"every-type": every_type("every-type"), "aligned": aligned(), "parts": parts()}
    held["every-type-v2"] = version_2(held["every-type"])
    big_endian()
    second_opinion([tokenizer("tokenizer-bytelevel", "gpt2"), tokenizer("tokenizer-spm", "llama")])
    (ROOT / "files.json").write_text(json.dumps(held, ensure_ascii=False, indent=1) + "\n")
    for path in sorted(ROOT.glob("*")):
        print(f"{path.stat().st_size:8} {path.name}")


def check(path):
    reader = GGUFReader(path)
    for field in reader.fields.values():
        print(f"{field.name} = {str(field.contents())[:70]}")
    for tensor in reader.tensors:
        shape = [int(d) for d in reversed(tensor.shape)]
        print(f"{tensor.name}: {tensor.tensor_type.name} {shape}, {tensor.n_bytes} bytes from {tensor.data_offset}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    check(arguments.check) if arguments.check else make()
