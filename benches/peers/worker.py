"""The driver's side of a worker: a process that is asleep unless it is measured."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time


class Failed(Exception):
    """A worker that ended or said no JSON; the text is the end of its standard error."""


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
DIE_WITH_PARENT = 1


def die_with_us():
    """A stopped worker would outlive a driver that is killed."""
    if LIBC:
        LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL)


def start(command, env, errors):
    command = [str(part) for part in command]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                            env=dict(os.environ, **env), preexec_fn=die_with_us)


class Worker:
    def __init__(self, command, env, log):
        self.log = log
        self.errors = open(log, "w", encoding="utf-8")
        self.process = start(command, env, self.errors)
        self.about = {}
        while not self.about.get("ready"):
            self.about = self.read()
        self.sleep()

    def read(self):
        """The next line that is a JSON object; libraries write others."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.process.wait()
        with open(self.log, encoding="utf-8") as file:
            raise Failed(f"ended with {self.process.returncode}: {file.read()[-800:].strip()}")

    def sleep(self):
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, do, tokens, depth):
        """Tokens per second."""
        self.process.send_signal(signal.SIGCONT)
        print(json.dumps({"do": do, "tokens": tokens, "depth": depth}), file=self.process.stdin, flush=True)
        answer = self.read()
        self.sleep()
        return answer["tokens"] / answer["seconds"]

    def close(self):
        """Ends it; the most bytes of memory that it had."""
        self.process.send_signal(signal.SIGCONT)
        try:
            print(json.dumps({"do": "quit"}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass
        _, _, used = os.wait4(self.process.pid, 0)
        self.process.returncode = 0
        self.errors.close()
        return used.ru_maxrss * 1024


def first(command, env, log):
    """Runs to the first token. Seconds from the process's start, of which the imports of Python; peak memory in bytes."""
    with open(log, "w", encoding="utf-8") as errors:
        began = time.perf_counter()
        process = start(command, env, errors)
        imported, token = 0.0, None
        for line in process.stdout:
            now = time.perf_counter() - began
            if line.startswith('{"imported"'):
                imported = now
            elif line.startswith("{") and token is None:
                token = now
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = 0
    if token is None or status:
        with open(log, encoding="utf-8") as file:
            raise Failed(f"no first token, status {status}: {file.read()[-800:].strip()}")
    return {"seconds": token, "imports_s": imported, "peak_bytes": used.ru_maxrss * 1024}
