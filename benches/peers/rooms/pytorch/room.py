"""PyTorch (oneDNN) with transformers: the checkpoint as it is, in bf16."""

import pathlib

import place as at

PEER = "PyTorch"
PACKAGES = ["torch==2.15.0", "transformers==5.23.0", "safetensors==0.8.0"]
FORMATS = {"bf16": "bf16"}
IMPORTS_COUNT = True


def install(place):
    at.install(place, "pytorch", PACKAGES)


def missing(place):
    return at.has(place.python("pytorch"), "torch, transformers")


def make(place, shape, kind):
    """Nothing: it reads the checkpoint."""


def command(place, shape, kind, threads, context, flags):
    worker = pathlib.Path(__file__).with_name("worker.py")
    return [place.python("pytorch"), worker, place.checkpoint(shape), "--threads", threads, "--context", context]
