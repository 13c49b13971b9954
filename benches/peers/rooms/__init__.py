"""One room per peer: how it is installed, which file it reads, which commands measure it.

A room has
- `PEER`: the name in tables; `FORMATS`: ours -> the peer's own format that stands beside it;
- `IMPORTS_COUNT`: whether loading its libraries is a part of its start-up (not where Python is only our harness);
- `install(place)`, `missing(place)`: a reason why it can't be measured here, or `None`;
- `make(place, shape, kind)`: its file of a format, made offline from the random checkpoint;
- `command(place, shape, kind, threads, context, flags)`: its worker; `--first N` is appended for a first token.
"""

import importlib

PEERS = ["llama_cpp", "llama_cpp_avx2", "pytorch", "openvino", "ort_genai", "candle"]


def room(name):
    return importlib.import_module(f"rooms.{name}.room")
