"""onnxruntime-genai: int4 weights by its own model builder."""

import os
import pathlib

import place as at

PEER = "ORT GenAI"
PACKAGES = ["onnxruntime-genai==0.18.0", "onnxruntime==1.32.0", "onnx==1.23.2", "onnx-ir==1.1.0", "torch==2.15.0",
            "transformers==5.23.0"]
FORMATS = {"Q4_0": "int4"}
IMPORTS_COUNT = True


def install(place):
    at.install(place, "ort_genai", PACKAGES)


def missing(place):
    return at.has(place.python("ort_genai"), "onnxruntime_genai")


def folder(place, shape, kind):
    return place.models(shape) / f"ort-{FORMATS[kind]}"


def make(place, shape, kind):
    out = folder(place, shape, kind)
    if (out / "genai_config.json").exists():
        return
    builder = [place.python("ort_genai"), "-m", "onnxruntime_genai.models.builder"]
    options = ["--input", place.checkpoint(shape), "--output", out, "--precision", FORMATS[kind], "--execution_provider", "cpu"]
    cache = ["--cache_dir", place.folder / "cache"]
    at.run([*builder, *options, *cache], env=dict(os.environ, HF_HUB_OFFLINE="1"))


def command(place, shape, kind, threads, context, flags):
    worker = pathlib.Path(__file__).with_name("worker.py")
    return [place.python("ort_genai"), worker, folder(place, shape, kind), "--threads", threads, "--context", context]
