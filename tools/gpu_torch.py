"""PyTorch on the same card and the same checkpoint: what Qiao's figures on a GPU stand beside.

    python3 tools/gpu_torch.py DIR [--json FILE]          (torch with CUDA, transformers)

Measures the card's own limits (copy bandwidth, counting bytes read and written; bf16 matmul of 8192³ on random data), then the
checkpoint in bf16: prompts of 512 and 4096 tokens, and tokens a second of 1 and of 64 sequences after a prompt of 128, the decode step
captured as a CUDA graph through torch.compile where that works, eager else. Medians of five rounds, the card synchronised.
The file is written again after every figure, so that a run that is cut short keeps what it has.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, StaticCache


def timed(function, rounds: int = 5) -> float:
    """Median seconds of a call."""
    function()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def limits() -> dict:
    a = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    copy = 2 * a.numel() / timed(lambda: b.copy_(a))
    del a, b
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = 2 * 8192**3 / timed(lambda: x @ y)
    return {"copy_bytes_per_s": copy, "bf16_matmul_flop_per_s": product}


@torch.inference_mode()
def prefill(model, tokens: int) -> float:
    """Tokens a second of one prompt, the last logits alone."""
    ids = torch.randint(100, 1000, (1, tokens), device="cuda")
    return tokens / timed(lambda: model(ids, use_cache=True, logits_to_keep=1))


def rewind(cache, length: int) -> None:
    """Let every layer of a cache hold this many tokens; layers of older releases count none, and are told by cache_position."""
    for layer in cache.layers if hasattr(cache, "layers") else []:
        count = getattr(layer, "cumulative_length", None)
        if isinstance(count, torch.Tensor):
            count.fill_(length)
        elif count is not None:
            layer.cumulative_length = length


@torch.inference_mode()
def decode(model, batch: int, prompt: int = 128, tokens: int = 64) -> tuple[float, str]:
    """Tokens a second of `batch` sequences, and how the step ran."""
    cache = StaticCache(config=model.config, max_cache_len=prompt + tokens + 8)
    ids = torch.randint(100, 1000, (batch, prompt), device="cuda")
    model(ids, past_key_values=cache, cache_position=torch.arange(prompt, device="cuda"), logits_to_keep=1)
    token = ids[:, -1:].clone()
    position = torch.tensor([prompt], device="cuda")

    def step(forward):
        logits = forward(token, past_key_values=cache, cache_position=position, logits_to_keep=1).logits
        token.copy_(logits[:, -1].argmax(-1, keepdim=True))

    def run(forward):
        rewind(cache, prompt)
        position.fill_(prompt)
        for _ in range(tokens):
            step(forward)
            position.add_(1)

    try:
        compiled = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
        return batch * tokens / timed(lambda: run(compiled), 3), "compiled"
    except Exception as error:  # noqa: BLE001 - any failure of the compiler means the eager way
        return batch * tokens / timed(lambda: run(model.forward), 3), f"eager ({type(error).__name__})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--json")
    args = parser.parse_args()
    found = {"torch": torch.__version__, "transformers": transformers.__version__, "card": torch.cuda.get_device_name(0)}

    def add(figures: dict) -> None:
        found.update(figures)
        if args.json:
            part = pathlib.Path(f"{args.json}.part")
            part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            part.replace(args.json)

    add(limits())
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()
    for tokens in (512, 4096):
        add({f"prefill_{tokens}_tokens_per_s": prefill(model, tokens)})
    for batch in (1, 64):
        speed, how = decode(model, batch)
        add({f"decode_{batch}_tokens_per_s": speed, f"decode_{batch}_how": how})
    figures = {key: value for key, value in found.items() if key.endswith("_s")}
    print(", ".join(f"{key.removesuffix('_per_s')} {value:.4g}/s" for key, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
