"""Make fixtures/quant/: what the quant crate's decoders, encoders and importers are held to.

    python3 -m venv .venv && .venv/bin/pip install numpy gguf torch safetensors compressed-tensors llama-cpp-python
    .venv/bin/pip download --no-deps autoawq==0.2.9 && tar xzf autoawq-0.2.9.tar.gz
    .venv/bin/python tools/quant_vectors.py encoders PATH/TO/libggml-base.so
    .venv/bin/python tools/quant_vectors.py blocks
    .venv/bin/python tools/quant_vectors.py import autoawq-0.2.9

encoders   encoder_errors.txt: squared errors of ggml's encoders, plain and with an importance matrix. The library lies in
           llama-cpp-python's package, llama_cpp/lib/.
blocks     blocks.safetensors: random blocks of every block format, and what the gguf package decodes them to.
import     import.safetensors: packed layers of every scheme, and the weights that they stand for. The metadata says who
           made each: compressed-tensors, AutoAWQ (its packing_utils.py, which needs torch alone), or plain numpy.
"""

import argparse
import pathlib

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "quant"


def blocks():
    """Random bytes as blocks, drawn again where they decode to no finite number."""
    import gguf
    import numpy as np

    from quant_encoders import TYPES

    rng, out = np.random.default_rng(77), {}
    for ours, theirs in TYPES.items():
        kind = gguf.GGMLQuantizationType[theirs]
        elems, size = gguf.GGML_QUANT_SIZES[kind]
        kept = []
        while len(kept) * elems < 512:
            block = rng.integers(0, 256, size, dtype=np.uint8)
            with np.errstate(all="ignore"):
                decoded = gguf.dequantize(block, kind)
            if np.isfinite(decoded).all():
                kept.append((block, decoded))
        out[f"{ours}.blocks"] = np.concatenate([b for b, _ in kept])
        out[f"{ours}.decoded"] = np.concatenate([d for _, d in kept]).astype(np.float32)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("encoders").add_argument("library", help="libggml-base.so")
    kinds.add_parser("blocks")
    kinds.add_parser("import").add_argument("autoawq", help="the unpacked source of AutoAWQ")
    args = parser.parse_args()
    FIXTURES.mkdir(exist_ok=True)
    if args.kind == "encoders":
        import quant_encoders

        (FIXTURES / "encoder_errors.txt").write_text(quant_encoders.errors(args.library))
    elif args.kind == "blocks":
        from safetensors.numpy import save_file

        save_file(blocks(), FIXTURES / "blocks.safetensors", {"decoded by": "gguf"})
    else:
        import quant_import
        from safetensors.torch import save_file

        tensors, makers = quant_import.tensors(args.autoawq)
        save_file(tensors, FIXTURES / "import.safetensors", makers)


if __name__ == "__main__":
    main()
