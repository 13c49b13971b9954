"""OpenVINO GenAI: weights of 16, 8 and 4 bits, made by optimum-intel from the checkpoint."""

import os
import pathlib

import place as at

PEER = "OpenVINO"
PACKAGES = ["openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0", "transformers==5.5.4", "torch==2.15.0"]
FORMATS = {"bf16": "fp16", "Q8_0": "int8", "Q4_0": "int4"}
IMPORTS_COUNT = True


def install(place):
    at.install(place, "openvino", PACKAGES)


def missing(place):
    return at.has(place.python("openvino"), "openvino_genai, numpy")


def folder(place, shape, kind):
    return place.models(shape) / f"openvino-{FORMATS[kind]}"


def make(place, shape, kind):
    out = folder(place, shape, kind)
    if (out / "openvino_model.xml").exists():
        return
    command = [place.python("openvino").with_name("optimum-cli"), "export", "openvino", "--model", place.checkpoint(shape),
               "--task", "text-generation-with-past", "--weight-format", FORMATS[kind]]
    if FORMATS[kind] == "int4":
        command += ["--sym", "--ratio", "1.0", "--group-size", "64"]
    at.run([*command, out], env=dict(os.environ, HF_HUB_OFFLINE="1"))


def command(place, shape, kind, threads, context, flags):
    worker = pathlib.Path(__file__).with_name("worker.py")
    return [place.python("openvino"), worker, folder(place, shape, kind), "--threads", threads, "--context", context]
