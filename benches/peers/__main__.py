#!/usr/bin/env python3
"""Qiao beside its peers on one machine, in one run.

    python3 benches/peers install qiao llama_cpp pytorch     # builds ours; each peer into an environment of its own
    python3 benches/peers model qwen2.5-0.5b                  # random weights, and every format of every peer
    python3 benches/peers measure --peers llama_cpp,pytorch   # alternated rounds, limits beside them, table and JSON
    python3 benches/peers table RESULT.json --markdown        # the table again
    python3 benches/peers measure --curves --formats Q4_0     # many prompts and depths instead of the table's
    python3 benches/peers plot RESULT.json --out DIR          # SVG files: what a token costs against prompt and depth
    python3 benches/peers limits                              # what this machine can do

Everything lies in `target/peers`, or where --folder says. Nothing but `install` needs a network. Peers: llama_cpp,
llama_cpp_avx2, pytorch, openvino, ort_genai, candle; one that is missing or fails is named, with the reason.

Engines that are loaded at once are stopped while another one runs. A point is measured in pairs: in each round every engine
runs it once, and another one begins; the table shows medians, and ratios pair by pair. Before each round the limits of the
machine are measured on as many threads.
"""

import argparse
import json
import sys

import machine
import measure
import place as at
import plot
import table
from rooms import PEERS, room

SHAPES = ["qwen2.5-0.5b", "qwen3-0.6b", "llama-3.2-1b"]
FORMATS = ["bf16", "f16", "Q8_0", "Q4_0", "Q4_K_M"]


def words(known):
    def parse(text):
        found = text.split(",") if text else []
        unknown = [word for word in found if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return found
    return parse


def numbers(text):
    return [int(word) for word in text.split(",")]


def install(place, args):
    for name in args.rooms:
        room(name).install(place)
        why = room(name).missing(place)
        print(f"{name}: {why or 'ready'}")


def model(place, args):
    """The checkpoint and its bf16 GGUF by tools/random_checkpoint.py, then every other format."""
    python = place.python("llama_cpp")
    why = at.has(python, "gguf, numpy, llama_cpp")
    if why:
        sys.exit(f"error: files are made by the environment of llama_cpp: {why}; run 'install llama_cpp'")
    for shape in args.shapes:
        if not place.gguf(shape, "bf16").exists():
            at.run([python, at.ROOT / "tools/random_checkpoint.py", "--shape", shape, "--dtype", "bf16", "--out",
                    place.checkpoint(shape), "--gguf", place.gguf(shape, "bf16")])
        for name in dict.fromkeys(["llama_cpp", *args.peers]):
            why = room(name).missing(place)
            if why:
                print(f"skipped: {name}: {why}")
                continue
            for kind in args.formats:
                if kind in room(name).FORMATS:
                    room(name).make(place, shape, kind)


def arguments():
    parser = argparse.ArgumentParser(prog="benches/peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where everything lies; else target/peers")
    commands = parser.add_subparsers(dest="command", required=True)
    into = commands.add_parser("install", help="build Qiao, install peers")
    into.add_argument("rooms", nargs="+", choices=["qiao", *PEERS])
    made = commands.add_parser("model", help="make the files that are measured")
    made.add_argument("shapes", nargs="+", choices=SHAPES)
    run = commands.add_parser("measure", help="measure; print the table, write JSON")
    run.add_argument("--shapes", type=words(SHAPES), default=SHAPES[:1])
    for command in (made, run):
        command.add_argument("--formats", type=words(FORMATS), default=FORMATS)
        command.add_argument("--peers", type=words(PEERS), default=PEERS)
    run.add_argument("--threads", type=numbers, default=[1, 2])
    run.add_argument("--depths", type=numbers, default=[0, 2048])
    run.add_argument("--curves", action="store_true", help="prompts of 1 to 2048 tokens, depths of 0 to the deepest")
    run.add_argument("--prompt", type=int, default=measure.PROMPT)
    run.add_argument("--generated", type=int, default=measure.GENERATED)
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--starts", type=int, default=3, help="processes that are started for the first token")
    run.add_argument("--flash", choices=["auto", "off", "on"], default="auto", help="llama.cpp's flash attention")
    run.add_argument("--isa", choices=["amx", "avx512", "avx2", "scalar"], help="QIAO_ISA for Qiao")
    run.add_argument("--activations", type=int, choices=[16, 8], help="QIAO_ACTIVATIONS for Qiao: llama.cpp and OpenVINO take 8 bits")
    run.add_argument("--prepacked", action="store_true", help="'qiao prepack' has run before: Qiao's weights are mapped as it packs them")
    run.add_argument("--deepest", action="append", default=[], metavar="PEER=DEPTH", help="spare a slow peer deeper points")
    run.add_argument("--json", help="where to write; else FOLDER/result.json")
    shown = commands.add_parser("table", help="print the table of a result")
    shown.add_argument("result")
    shown.add_argument("--markdown", action="store_true")
    drawn = commands.add_parser("plot", help="draw the curves of a result")
    drawn.add_argument("result")
    drawn.add_argument("--out", default=".", help="the folder of the SVG files")
    limits = commands.add_parser("limits", help="measure the machine alone")
    limits.add_argument("--threads", type=numbers, default=[1, 2])
    return parser.parse_args()


def main():
    args = arguments()
    place = at.Place(args.folder)
    if args.command == "install":
        install(place, args)
    elif args.command == "model":
        model(place, args)
    elif args.command == "measure":
        print(table.text(place, measure.measure(place, args)))
    elif args.command == "table":
        show = table.markdown if args.markdown else table.text
        print(show(place, table.read(args.result)))
    elif args.command == "plot":
        for path in plot.draw(place, table.read(args.result), args.out):
            print(path)
    else:
        for threads in args.threads:
            print(json.dumps({"threads": threads, **machine.limits(threads)}))


if __name__ == "__main__":
    main()
