"""PyTorch with transformers, bf16 on the CPU."""

import pathlib
import sys
import time

import torch
import transformers

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
import protocol  # noqa: E402


class Engine:
    def __init__(self, args):
        torch.set_num_threads(args.threads)
        torch.set_grad_enabled(False)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(args.model, dtype=torch.bfloat16, attn_implementation=args.attention).eval()
        self.cache = transformers.DynamicCache()
        self.about = {"version": f"torch {torch.__version__}, transformers {transformers.__version__}",
                      "attention": args.attention, "cache": "bf16"}

    def held(self):
        return self.cache.get_seq_length()

    def feed(self, tokens):
        if tokens:
            ids = torch.tensor([tokens])
            return self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits

    def reach(self, depth):
        if depth == 0:
            self.cache = transformers.DynamicCache()
        elif depth < self.held():
            self.cache.crop(depth - self.held())
        while self.held() < depth:
            self.feed(protocol.ids(self.held(), min(512, depth - self.held())))

    def prefill(self, tokens, depth):
        self.reach(depth)
        start = time.perf_counter()
        self.feed(protocol.ids(depth, tokens))
        return time.perf_counter() - start

    def decode(self, tokens, depth):
        self.reach(depth)
        start = time.perf_counter()
        for token in protocol.ids(depth, tokens):
            self.feed([token])
        return time.perf_counter() - start

    def first(self, tokens):
        return self.feed(protocol.ids(0, tokens)).argmax().item()


if __name__ == "__main__":
    given = protocol.arguments(("--attention", {"choices": ["sdpa", "eager"], "default": "sdpa"}))
    protocol.run(given, lambda: Engine(given))
