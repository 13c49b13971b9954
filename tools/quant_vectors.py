"""Make fixtures/quant/: what the quant crate's encoders and importers are held to.

    python3 -m venv .venv && .venv/bin/pip install numpy gguf llama-cpp-python
    .venv/bin/python tools/quant_vectors.py encoders PATH/TO/libggml-base.so

encoders   encoder_errors.txt: squared errors of ggml's encoders, plain and with an importance matrix. The library lies in
           llama-cpp-python's package, llama_cpp/lib/.
"""

import argparse
import pathlib

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "quant"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    encoders = kinds.add_parser("encoders")
    encoders.add_argument("library", help="libggml-base.so")
    args = parser.parse_args()
    FIXTURES.mkdir(exist_ok=True)
    if args.kind == "encoders":
        import quant_encoders

        (FIXTURES / "encoder_errors.txt").write_text(quant_encoders.errors(args.library))


if __name__ == "__main__":
    main()
