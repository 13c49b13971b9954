"""OpenVINO GenAI: its own pipeline, greedy, with the end of the text ignored.

What lies before a measured token runs in each call, untimed: a prompt's time is that to its first token, a token's the mean of
those behind the first. The pipeline remembers prompts, so each begins with another token.
"""

import pathlib
import sys

import numpy
import openvino
import openvino_genai

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
import protocol  # noqa: E402


class Engine:
    def __init__(self, args):
        options = {"INFERENCE_NUM_THREADS": args.threads}
        self.pipeline = openvino_genai.LLMPipeline(args.model, "CPU", **options)
        self.calls = 0
        self.about = {"version": openvino_genai.__version__}

    def generate(self, tokens, most):
        config = openvino_genai.GenerationConfig(max_new_tokens=most, min_new_tokens=most, ignore_eos=True, do_sample=False)
        self.calls += 1
        ids = numpy.array([protocol.ids(self.calls, tokens)], dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids)))
        return self.pipeline.generate(inputs, config).perf_metrics

    def prefill(self, tokens, depth):
        if depth:
            raise ValueError("a prompt behind other tokens is not measured here")
        return self.generate(tokens, 1).get_ttft().mean / 1000

    def decode(self, tokens, depth):
        return tokens * self.generate(max(1, depth), tokens + 1).get_tpot().mean / 1000

    def first(self, tokens):
        self.generate(tokens, 1)


if __name__ == "__main__":
    given = protocol.arguments()
    protocol.run(given, lambda: Engine(given))
