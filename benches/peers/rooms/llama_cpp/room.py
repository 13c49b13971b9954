"""llama.cpp as the llama-cpp-python source package builds it for this machine: AMX and AVX-512 where it has them."""

import os
import pathlib
import tarfile

import place as at

PEER = "llama.cpp"
VENV = "llama_cpp"
VERSION = "0.3.36"
PACKAGES = ["gguf==0.19.0", "numpy==2.4.6"]
FORMATS = {kind: kind for kind in ("bf16", "f16", "Q8_0", "Q4_0", "Q4_K_M")}
IMPORTS_COUNT = False
CMAKE = "-DGGML_NATIVE=ON"


def install(place, venv=VENV, cmake=CMAKE):
    at.install(place, venv, PACKAGES)
    python = place.python(venv)
    sources = place.folder / "sources"
    at.run([python, "-m", "pip", "download", "--no-deps", "--no-binary=llama-cpp-python", "-d", sources,
            f"llama-cpp-python=={VERSION}"])
    archive = next(sources.glob("llama_cpp_python-*.tar.gz"))
    folder = sources / venv
    if not folder.exists():
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    source = next(folder.iterdir())
    print(f"{mend(source)} loads of a tile configuration are kept behind a barrier")
    at.run([python, "-m", "pip", "install", source], env=dict(os.environ, CMAKE_ARGS=cmake))


def mend(source):
    """gcc 12 drops the stores of llama.cpp's tile configuration, and its AMX path crashes; a barrier keeps them."""
    count = 0
    for path in pathlib.Path(source).glob("vendor/llama.cpp/ggml/src/ggml-cpu/amx/*.cpp"):
        text = path.read_text(encoding="utf-8")
        barrier = '__asm__ volatile("" ::: "memory"); _tile_loadconfig('
        if barrier not in text and "_tile_loadconfig(" in text:
            path.write_text(text.replace("_tile_loadconfig(", barrier), encoding="utf-8")
        count += text.count("_tile_loadconfig(")
    return count


def missing(place, venv=VENV):
    return at.has(place.python(venv), "llama_cpp")


def make(place, shape, kind):
    """GGUF files, which Qiao reads too; `bf16` comes with the checkpoint."""
    path = place.gguf(shape, kind)
    if not path.exists():
        quantise = pathlib.Path(__file__).with_name("quantise.py")
        at.run([place.python(VENV), quantise, place.gguf(shape, "bf16"), path, kind])


def command(place, shape, kind, threads, context, flags, venv=VENV):
    worker = pathlib.Path(__file__).with_name("worker.py")
    return [place.python(venv), worker, place.gguf(shape, kind), "--threads", threads, "--context", context,
            "--flash", flags.get("flash", "auto")]
