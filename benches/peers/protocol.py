"""What a worker of a peer does: loads a model once, then answers commands, one JSON object a line.

A worker runs in the peer's own interpreter, with nothing but the standard library and that peer. Its engine has
`prefill(tokens, depth)` and `decode(tokens, depth)`, which give seconds; `first(tokens)`, which returns when one token is
chosen after a prompt; and `about`, what is worth knowing of it. `--first N` does that one thing and ends.
"""

import argparse
import json
import sys


def ids(start, count, vocabulary=1100):
    """The prompt that every engine is given: ids are fixed, what they mean does not matter to speed."""
    return [100 + (at * 37) % min(1000, vocabulary - 100) for at in range(start, start + count)]


def arguments(*more):
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--first", type=int)
    for name, options in more:
        parser.add_argument(name, **options)
    return parser.parse_args()


def say(**value):
    print(json.dumps(value), flush=True)


def run(args, load):
    """Loads by `load()` and obeys standard input until it ends."""
    say(imported=True)
    engine = load()
    if args.first:
        engine.first(args.first)
        say(first=True)
        return
    say(ready=True, **engine.about)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            break
        seconds = getattr(engine, command["do"])(command["tokens"], command["depth"])
        say(seconds=seconds, tokens=command["tokens"])
