"""The machine: what it is, and its limits, measured beside every round."""

import json
import pathlib
import platform
import subprocess

import place as at


def about():
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    name = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "unknown")
    wanted = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
    flags = at.cpu_flags()
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=at.ROOT, capture_output=True, text=True).stdout.strip()
    return {"cpu": name, "cores": len(text.split("\nprocessor")) - 1 + text.startswith("processor"),
            "flags": [flag for flag in wanted if flag in flags], "system": platform.platform(), "qiao": commit}


def limits(threads, ms=20):
    """Bytes per second that are read and copied, operations per second of every instruction, on so many threads."""
    command = [at.built("limits"), "--threads", str(threads), "--ms", str(ms)]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["threads"][str(threads)]
