"""Runs every contestant in turn, round after round, and gathers what they reach."""

import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

import machine
import protocol
from rooms import room
from worker import Failed, Worker, first

PROMPT = 512
GENERATED = 128
# Of our formats: what other peers run in its place.
CLASSES = {"bf16": "16 bits", "f16": "16 bits", "Q8_0": "8 bits", "Q4_0": "4 bits", "Q4_K_M": "4 bits"}


def points(depths, prompt, generated):
    """(what, tokens, depth), a prompt once and decode at every depth."""
    return [("prefill", prompt, 0)] + [("decode", generated, depth) for depth in depths]


def curves(deepest):
    """Tokens at once in powers of two, and depths up to the deepest: what a token costs against each."""
    prompts = [("prefill", 2 ** power, 0) for power in range(12)]
    depths = [0] + [depth for depth in (256, 512, 1024, 2048, 4096, 8192, 16384, 32768) if depth <= deepest]
    return prompts + [("decode", 16, depth) for depth in depths]


def label(point):
    what, tokens, depth = point
    return f"{'pp' if what == 'prefill' else 'tg'}{tokens}@{depth}"


class Group:
    """One shape, format and number of threads: Qiao and every peer that has it."""

    def __init__(self, place, shape, kind, threads, names, flags):
        self.place, self.shape, self.kind, self.threads, self.flags = place, shape, kind, threads, flags
        self.rooms = {name: room(name) for name in ["qiao", *names]}
        self.rooms = {name: found for name, found in self.rooms.items() if kind in found.FORMATS}
        self.found = {"shape": shape, "format": kind, "threads": threads, "isa": flags.get("isa") or "best",
                      "activations": flags.get("activations") or 16, "prepacked": bool(flags.get("prepacked")), "engines": {},
                      "limits": [], "failed": {}, "deepest": dict(flags.get("deepest", {}))}
        self.env = {name: str(threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "QIAO_THREADS")}
        self.env["QIAO_ISA"] = flags.get("isa") or ""
        self.env["QIAO_ACTIVATIONS"] = str(self.found["activations"])
        # Of the user's cache nothing is taken.
        self.env["QIAO_CACHE_DIR"] = str(place.folder / ("prepacked" if self.found["prepacked"] else "not-prepacked"))

    def log(self, name, what):
        folder = self.place.folder / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.shape}-{self.kind}-{self.threads}-{name}-{what}.txt"

    def start(self, context):
        if self.found["prepacked"]:
            command = [str(part) for part in self.rooms["qiao"].prepack(self.place, self.shape, self.kind)]
            # One that fails is told, and the weights are packed in every process.
            self.found["prepacked"] = subprocess.run(command, env=dict(os.environ, **self.env)).returncode == 0
        workers = {}
        for name, there in self.rooms.items():
            there_is = there.FORMATS[self.kind]
            command = there.command(self.place, self.shape, self.kind, self.threads, context, self.flags)
            try:
                workers[name] = Worker(command, self.env, self.log(name, "worker"))
            except (Failed, OSError) as error:
                self.fail(name, error)
                continue
            about = {key: value for key, value in workers[name].about.items() if key != "ready"}
            self.found["engines"][name] = {"peer": there.PEER, "format": there_is, "about": about, "points": {}, "first": []}
        return workers

    def fail(self, name, error):
        print(f"  {name} failed: {error}", file=sys.stderr, flush=True)
        self.found["failed"][name] = " ".join(str(error).split())

    def speed(self, points, rounds):
        """Every point in every round by everyone, who begins taking turns; limits beside each round."""
        context = max(tokens + depth for _, tokens, depth in points) + 8
        workers = self.start(context)
        for point in points:
            what, tokens, depth = point
            for number in range(rounds):
                self.found["limits"].append({"point": label(point), **machine.limits(self.threads)})
                names = [name for name in workers if depth <= self.found["deepest"].get(name, depth)]
                for name in names[number % max(1, len(names)):] + names[:number % max(1, len(names))]:
                    try:
                        if number == 0:
                            workers[name].ask(what, min(tokens, 32) if what == "prefill" else 2, depth)
                        rate = workers[name].ask(what, tokens, depth)
                    except (Failed, OSError) as error:
                        self.fail(name, error)
                        del workers[name]
                        continue
                    self.found["engines"][name]["points"].setdefault(label(point), []).append(rate)
                    print(f"  {label(point)} round {number + 1} {name}: {rate:.2f} tokens/s", file=sys.stderr, flush=True)
        for name, worker in workers.items():
            self.found["engines"][name]["peak_bytes_at_depth"] = worker.close()

    def start_up(self, rounds, prompt):
        """Process start to first token, files in the page cache, and the memory that takes."""
        for number in range(rounds + 1):
            for name, engine in self.found["engines"].items():
                if name in self.found["failed"]:
                    continue
                there = self.rooms[name]
                if name == "qiao":
                    command = there.first(self.place, self.shape, self.kind, self.threads, prompt, protocol.ids(0, prompt))
                else:
                    command = there.command(self.place, self.shape, self.kind, self.threads, prompt + 8, self.flags)
                    command = command + ["--first", prompt]
                try:
                    taken = first(command, self.env, self.log(name, "first"))
                except (Failed, OSError) as error:
                    self.fail(name, error)
                    continue
                if not there.IMPORTS_COUNT:
                    taken["seconds"] -= taken["imports_s"]
                if number:
                    engine["first"].append(taken)
                    print(f"  first token {name}: {taken['seconds']:.2f} s, peak {taken['peak_bytes'] / 2**20:.0f} MiB",
                          file=sys.stderr, flush=True)


def measure(place, args):
    """All groups; the result is written after each of them, so that an interrupted run keeps what it has."""
    flags = {"flash": args.flash, "isa": args.isa, "activations": args.activations, "prepacked": args.prepacked,
             "deepest": {}}
    for text in args.deepest:
        name, _, depth = text.partition("=")
        flags["deepest"][name] = int(depth)
    skipped = {name: why for name in args.peers if (why := room(name).missing(place))}
    why = room("qiao").missing(place)
    if why:
        sys.exit(f"error: {why}")
    names = [name for name in args.peers if name not in skipped]
    result = {"date": datetime.date.today().isoformat(), "machine": machine.about(), "rounds": args.rounds, "skipped": skipped,
              "command": " ".join(["benches/peers", *sys.argv[1:]]), "groups": []}
    for shape in args.shapes:
        for kind in args.formats:
            for threads in args.threads:
                group = Group(place, shape, kind, threads, names, flags)
                print(f"{shape} {kind}, {threads} threads: {', '.join(group.rooms)}", file=sys.stderr, flush=True)
                chosen = curves(max(args.depths)) if args.curves else points(args.depths, args.prompt, args.generated)
                group.speed(chosen, args.rounds)
                group.start_up(args.starts, args.prompt)
                # As large as the model: the next group has its own.
                shutil.rmtree(place.folder / "prepacked", ignore_errors=True)
                result["groups"].append(group.found)
                save(place, args.json, result)
    return result


def save(place, path, result):
    path = pathlib.Path(path) if path else place.folder / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def median_ratio(ours, theirs):
    """Pair by pair."""
    return statistics.median(a / b for a, b in zip(ours, theirs))
