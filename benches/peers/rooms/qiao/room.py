"""Qiao itself: its worker is an example of `benches`, its first token comes from the command."""

import place as at

PEER = "qiao"
FORMATS = {kind: kind for kind in ("bf16", "f16", "Q8_0", "Q4_0", "Q4_K_M")}
IMPORTS_COUNT = True


def install(place):
    at.run(["cargo", "build", "--release", "-p", "qiao-cli"], cwd=at.ROOT)
    at.run(["cargo", "build", "--release", "-p", "qiao-benches", "--example", "worker", "--example", "limits"], cwd=at.ROOT)


def missing(place):
    for program in (at.built("qiao", example=False), at.built("worker"), at.built("limits")):
        if not program.exists():
            return f"{program} is not built: run 'install qiao'"
    return None


def command(place, shape, kind, threads, context, flags):
    return [at.built("worker"), place.gguf(shape, kind), "--threads", threads, "--context", context]


def prepack(place, shape, kind):
    """The command that keeps weights as they are packed; it has run once before what is measured with it."""
    return [at.built("qiao", example=False), "prepack", place.gguf(shape, kind)]


def first(place, shape, kind, threads, tokens, ids):
    """The command that users run; its one line of JSON is written with the first token."""
    return [at.built("qiao", example=False), "run", place.gguf(shape, kind), "--token-ids",
            ",".join(map(str, ids)), "--max-tokens", 1, "--temperature", 0, "--ignore-eos", "--context", tokens + 8,
            "--json"]
