"""Where peers, models and results are: everything lies in one folder that git ignores."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Place:
    """The folder of a measurement: `venvs/`, `models/`, and what is built in `target`."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder) if folder else target() / "peers"

    def python(self, room):
        return self.folder / "venvs" / room / "bin" / "python"

    def models(self, shape):
        return self.folder / "models" / shape

    def checkpoint(self, shape):
        return self.models(shape) / "bf16"

    def gguf(self, shape, kind):
        return self.models(shape) / f"{kind}.gguf"


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def built(name, example=True):
    """A program of ours in its release build."""
    return target() / "release" / ("examples" if example else "") / name


def run(command, **options):
    """Runs a command to its end with its output shown; a failure ends this program."""
    command = [str(part) for part in command]
    print("+", " ".join(command), file=sys.stderr, flush=True)
    code = subprocess.run(command, **options).returncode
    if code:
        sys.exit(f"error: {command[0]} ended with {code}")


def install(place, room, packages, source=(), env=None):
    """Makes a virtual environment of its own with these packages; those in `source` are built here."""
    python = place.python(room)
    if not python.exists():
        run([sys.executable, "-m", "venv", python.parent.parent])
    options = [f"--no-binary={name}" for name in source]
    run([python, "-m", "pip", "install", *options, *packages], env=dict(os.environ, **(env or {})))


def has(python, modules):
    """Why an interpreter can't import something; `None` where it can."""
    if not python.exists():
        return f"no environment at {python.parent.parent}"
    done = subprocess.run([str(python), "-c", f"import {modules}"], capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["import failed"])[-1]


def cpu_flags():
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8") if os.path.exists("/proc/cpuinfo") else ""
    line = next((line for line in text.splitlines() if line.startswith("flags")), ":")
    return set(line.split(":", 1)[1].split())
