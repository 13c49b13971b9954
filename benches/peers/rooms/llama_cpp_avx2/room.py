"""llama.cpp built for AVX2, FMA and F16C alone: what stands beside `QIAO_ISA=avx2`."""

from rooms.llama_cpp import room as native

PEER = "llama.cpp avx2"
FORMATS, IMPORTS_COUNT, make = native.FORMATS, native.IMPORTS_COUNT, native.make
VENV = "llama_cpp_avx2"
CMAKE = " ".join(f"-DGGML_{name}" for name in ("NATIVE=OFF", "AVX=ON", "AVX2=ON", "FMA=ON", "F16C=ON", "BMI2=ON", "SSE42=ON",
                                               "AVX512=OFF", "AVX_VNNI=OFF"))


def install(place):
    native.install(place, VENV, CMAKE)


def missing(place):
    return native.missing(place, VENV)


def command(place, shape, kind, threads, context, flags):
    return native.command(place, shape, kind, threads, context, flags, VENV)
