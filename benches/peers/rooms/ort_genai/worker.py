"""onnxruntime-genai: its generator, greedy."""

import json
import pathlib
import sys
import time

import onnxruntime_genai as og

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
import protocol  # noqa: E402


class Engine:
    def __init__(self, args):
        config = og.Config(args.model)
        threads = {"intra_op_num_threads": args.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self.model = og.Model(config)
        self.context = args.context
        self.generator = None
        self.about = {"version": og.__version__}

    def reach(self, depth):
        """Leaves exactly these tokens, with the logits of the last not yet looked at."""
        if self.generator is None or depth == 0:
            params = og.GeneratorParams(self.model)
            params.set_search_options(do_sample=False, min_length=self.context, max_length=self.context)
            self.generator = og.Generator(self.model, params)
        held = self.generator.token_count()
        if depth < held:
            self.generator.rewind_to(depth)
            held = depth
        if held < depth:
            self.generator.append_tokens(protocol.ids(held, depth - held))

    def prefill(self, tokens, depth):
        self.reach(depth)
        start = time.perf_counter()
        self.generator.append_tokens(protocol.ids(depth, tokens))
        self.generator.generate_next_token()
        return time.perf_counter() - start

    def decode(self, tokens, depth):
        self.reach(depth)
        self.generator.append_tokens(protocol.ids(depth, 1))
        self.generator.generate_next_token()
        start = time.perf_counter()
        for _ in range(tokens):
            self.generator.generate_next_token()
        return time.perf_counter() - start

    def first(self, tokens):
        self.prefill(tokens, 0)


if __name__ == "__main__":
    given = protocol.arguments()
    protocol.run(given, lambda: Engine(given))
