"""Write GGUF files (version 3) with nothing but Python: metadata, tensor infos, and data that is written piece by piece.

The layout is that of ggml's docs/gguf.md. A file is written beside its place and renamed when it is whole.
"""

import math
import os
import pathlib
import struct
from collections.abc import Callable, Iterable

ALIGNMENT = 32
# Numbers of metadata types, with struct's letters.
NUMBERS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?")}
STRING, ARRAY = 8, 9
# Numbers of ggml's tensor types, elements of a block, bytes of a block.
TYPES = {"f32": (0, 1, 4), "f16": (1, 1, 2), "q8_0": (8, 32, 34), "q4_k": (12, 256, 144), "bf16": (30, 1, 2)}
# Numbers of general.file_type.
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "q4_k": 14, "bf16": 32}
# Numbers of tokenizer.ggml.token_type.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


class GgufFile:
    def __init__(self, path: pathlib.Path, architecture: str):
        self.path, self.architecture = path, architecture
        self.metadata: list[bytes] = []
        self.tensors: list[tuple[str, tuple[int, ...], str, Callable[[], Iterable]]] = []
        self.text("general.architecture", architecture)

    def number(self, key: str, kind: str, value) -> None:
        code, letter = NUMBERS[kind]
        self.metadata.append(string(key) + struct.pack("<I", code) + struct.pack(letter, value))

    def text(self, key: str, value: str) -> None:
        self.metadata.append(string(key) + struct.pack("<I", STRING) + string(value))

    def array(self, key: str, kind: str, values: list) -> None:
        """A list of numbers of one kind, or of texts ("text")."""
        code = STRING if kind == "text" else NUMBERS[kind][0]
        pack = string if kind == "text" else struct.Struct(NUMBERS[kind][1]).pack
        head = string(key) + struct.pack("<IIQ", ARRAY, code, len(values))
        self.metadata.append(head + b"".join(map(pack, values)))

    def tensor(self, name: str, shape: tuple[int, ...], kind: str, parts: Callable[[], Iterable]) -> None:
        """A tensor of this shape, rows last; `parts` gives its arrays in order when the file is written."""
        self.tensors.append((name, shape, kind, parts))

    def write(self) -> None:
        infos, offset = [], 0
        for name, shape, kind, _ in self.tensors:
            code, elements, size = TYPES[kind]
            if shape[-1] % elements:
                raise SystemExit(f"{kind}: rows of {name} have {shape[-1]} elements, no multiple of {elements}")
            dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
            infos.append(string(name) + dims + struct.pack("<IQ", code, offset))
            size = math.prod(shape) // elements * size
            offset += size + -size % ALIGNMENT
        head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(self.metadata))
        head += b"".join(self.metadata) + b"".join(infos)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        with part.open("wb") as file:
            file.write(head + bytes(-len(head) % ALIGNMENT))
            for name, shape, kind, parts in self.tensors:
                start = file.tell()
                for values in parts():
                    values.tofile(file)
                _, elements, size = TYPES[kind]
                if file.tell() - start != math.prod(shape) // elements * size:
                    raise AssertionError(f"{name}: {file.tell() - start} bytes were written")
                file.write(bytes(-file.tell() % ALIGNMENT))
        os.replace(part, self.path)
