"""Make the tiny seeded checkpoints of fixtures/ with transformers, with golden logits and greedy continuations.

    python3 -m venv .venv && .venv/bin/pip install -r tools/requirements.txt
    .venv/bin/python tools/golden.py             # all checkpoints; tokenizers: tools/golden_tokenizers.py
    .venv/bin/python tools/golden.py qwen3-qknorm

Each folder fixtures/<name>/ is a checkpoint as published ones are: config.json (newer keys: rope_parameters, dtype),
generation_config.json, model.safetensors (f32). Beside them:

    config.older.json    the same model in the older keys: rope_theta, partial_rotary_factor, rope_scaling, torch_dtype
    golden.safetensors   input_ids i64 [T], logits f32 [T,V], layers.<i>.output f32 [T,hidden], greedy_ids i64 [N]

A variant is golden.<variant>.safetensors over the same weights: another prompt, or another config, which then stands
in config.<variant>.json and config.<variant>.older.json.
fixtures/cases.json lists every case: dir, configs (each of them must give the golden), golden, dtype.

What the golden is: the forward pass of transformers over the whole prompt, on the CPU, f32 arithmetic, eager
attention, no cache (for llama-partial with the rope of another of its models: golden_families.partial_rope).
layers.<i>.output is the residual stream after decoder layer i, before the final norm. greedy_ids ignores the end token
and comes from such a whole forward pass per step. Where generation with a KV cache gives other ids, as with dynamic NTK
whose frequencies change with every step while cached keys keep the old ones, the file has greedy_ids_cached as well.
Along both paths the best logit leads by more than 1e-3, no end token occurs and half the ids are distinct; else the
seed is changed.

Each case has proofs: changes (a wrong window, a dropped scaling, ...) that must move the logits by more than 1e-2,
so that a mistake cannot hide; the script prints by how much they do, and fails when one does not.
"""

import argparse
import copy
import json
import pathlib
import shutil
import sys

import torch
from golden_families import DERIVED, FAMILIES, Family, Variant, nothing
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
GAP = 1e-3
VISIBLE = 1e-2


def initialise(model, family: Family, seed: int) -> None:
    """Draw weights large enough that attention is peaked and logits are far from uniform.

    A tied embedding is small and the final norm large, else every token would predict itself.
    """
    tied = model.config.tie_word_embeddings
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if name == "model.norm.weight" and tied:
                weight.copy_(4.0 + noise)
            elif name.endswith("norm.weight"):
                weight.copy_(1.0 + 0.25 * noise)
            elif name.endswith(".bias"):
                weight.copy_(0.5 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                weight.copy_((0.06 if tied else 0.25) * noise)
            elif "q_proj" in name or "k_proj" in name:
                weight.copy_(family.attention_std * noise)
            else:
                weight.copy_(0.15 * noise)


def older_keys(config: dict) -> dict:
    """The same config in the keys that transformers 4 wrote."""
    older = copy.deepcopy(config)
    rope = older.pop("rope_parameters")
    older["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    if "partial_rotary_factor" in rope:
        older["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if kind == "default":
        older["rope_scaling"] = None
    elif kind == "llama3":
        older["rope_scaling"] = {"rope_type": kind} | rope
    else:
        if kind == "longrope":
            older["original_max_position_embeddings"] = rope.pop("original_max_position_embeddings")
        older["rope_scaling"] = {"type": kind} | rope
    older["torch_dtype"] = older.pop("dtype")
    older["transformers_version"] = "4.46.0"
    older.pop("layer_types", None)
    return dict(sorted(older.items()))


def load(folder: pathlib.Path, config_name: str, dtype=torch.float32, change=None):
    """Load a checkpoint under the named config file; `change` edits the config's dictionary first."""
    values = json.loads((folder / config_name).read_text())
    if change:
        change(values)
    config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="eager")
    return model.eval()


def fresh_rope(model) -> None:
    """Forget the longest sequence seen, which dynamic NTK keeps between calls."""
    rope = model.model.rotary_emb
    rope.max_seq_len_cached = rope.original_max_seq_len
    rope.inv_freq.copy_(rope.original_inv_freq)


def rotated_share(model) -> float:
    """The share of each head that the model's rotary embedding has frequencies for."""
    return 2 * model.model.rotary_emb.inv_freq.numel() / model.model.layers[0].self_attn.head_dim


def forward(model, ids: list[int]) -> torch.Tensor:
    fresh_rope(model)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def greedy_whole(model, ids: list[int], count: int) -> tuple[list[int], float]:
    """Greedy ids by one whole forward pass per step, and the smallest lead of the best logit."""
    new, gap = [], float("inf")
    for _ in range(count):
        top = forward(model, ids + new)[-1].topk(2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        new.append(top.indices[0].item())
    return new, gap


def greedy_cached(model, ids: list[int], count: int) -> tuple[list[int], float]:
    """Greedy ids with transformers' KV cache: keys stay as they were rotated when they entered it."""
    fresh_rope(model)
    new, gap, cache, step = [], float("inf"), None, ids
    with torch.no_grad():
        for _ in range(count):
            out = model(input_ids=torch.tensor([step]), past_key_values=cache, use_cache=True)
            cache, top = out.past_key_values, out.logits[0, -1].topk(2)
            gap = min(gap, (top.values[0] - top.values[1]).item())
            new.append(top.indices[0].item())
            step = new[-1:]
    return new, gap


def golden_of(model, ids: list[int], count: int) -> tuple[dict, float]:
    """The tensors of a golden file, and the smallest greedy lead in them."""
    outputs = {}

    def keep(index):
        def hook(_module, _inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            outputs[f"layers.{index}.output"] = hidden.detach()[0].float().contiguous()

        return hook

    hooks = [layer.register_forward_hook(keep(i)) for i, layer in enumerate(model.model.layers)]
    logits = forward(model, ids)
    for hook in hooks:
        hook.remove()
    whole, gap = greedy_whole(model, ids, count)
    cached, gap_cached = greedy_cached(model, ids, count)
    tensors = {"input_ids": torch.tensor(ids), "logits": logits.contiguous(), "greedy_ids": torch.tensor(whole)}
    if cached != whole:
        tensors["greedy_ids_cached"] = torch.tensor(cached)
    return tensors | outputs, min(gap, gap_cached)


def varied(ids: list[int], eos: int | list[int]) -> bool:
    """True when a greedy path has no end token and is no mere repetition."""
    ends = eos if isinstance(eos, list) else [eos]
    return len(set(ids)) * 2 >= len(ids) and not set(ids) & set(ends)


def names(variant: Variant) -> tuple[str, str, str]:
    """File names of a variant: newer config, older config, golden. A variant without a change has the main configs."""
    dot = f".{variant.name}" if variant.name else ""
    config = "config" if variant.change is nothing else f"config{dot}"
    return f"{config}.json", f"{config}.older.json", f"golden{dot}.safetensors"


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_configs(folder: pathlib.Path, variant: Variant, base: dict) -> None:
    newer, older, _ = names(variant)
    values = copy.deepcopy(base)
    variant.change(values)
    write_json(folder / newer, values)
    write_json(folder / older, older_keys(values))


def prove(folder: pathlib.Path, variant: Variant, ids: list[int], logits: torch.Tensor) -> None:
    """Show that each mistake the case guards against moves the logits visibly."""
    config_name = names(variant)[0]
    for label, change in variant.proofs.items():
        wrong = forward(load(folder, config_name, change=change), ids)
        moved = (wrong - logits).abs().max().item()
        print(f"    {label}: logits move by {moved:.3f}")
        assert moved > VISIBLE, f"{folder.name}: '{label}' changes too little to be noticed"
    for label, edit in variant.weight_proofs.items():
        model = load(folder, config_name)
        with torch.no_grad():
            touched = [edit(name, weight) for name, weight in model.named_parameters()]
        assert any(touched), f"{folder.name}: '{label}' touched no weight"
        moved = (forward(model, ids) - logits).abs().max().item()
        print(f"    {label}: logits move by {moved:.3f}")
        assert moved > VISIBLE, f"{folder.name}: '{label}' changes too little to be noticed"


def write_golden(folder: pathlib.Path, variant: Variant, tensors: dict, compute: str) -> None:
    save_file(tensors, folder / names(variant)[2], metadata={"source": f"tools/golden.py: {compute}"})


def make(family: Family) -> list[dict]:
    """Write one checkpoint with all its variants; try seeds until every greedy path is well defined."""
    folder = ROOT / family.name
    for seed in range(family.seed, family.seed + 200):
        shutil.rmtree(folder, ignore_errors=True)
        model = AutoModelForCausalLM.from_config(family.config(), attn_implementation="eager")
        share = model.config.rope_parameters.get("partial_rotary_factor", 1.0)
        assert rotated_share(model) == share, f"{family.name}: transformers rotates {rotated_share(model)} of a head"
        initialise(model, family, seed)
        model.save_pretrained(folder)
        base = json.loads((folder / "config.json").read_text())
        goldens, good = [], True
        for variant in family.variants:
            write_configs(folder, variant, base)
            generator = torch.Generator().manual_seed(seed * 1000 + variant.prompt)
            ids = torch.randint(3, base["vocab_size"], (variant.prompt,), generator=generator).tolist()
            tensors, gap = golden_of(load(folder, names(variant)[0]), ids, variant.greedy)
            goldens.append((tensors, gap))
            good &= gap > GAP and varied(tensors["greedy_ids"].tolist(), base["eos_token_id"])
        if good:
            break
    else:
        raise SystemExit(f"{family.name}: no seed gives a well defined, varied greedy path")
    return [
        finish(folder, variant, tensors, seed, gap)
        for variant, (tensors, gap) in zip(family.variants, goldens, strict=True)
    ]


def finish(folder: pathlib.Path, variant: Variant, tensors: dict, seed: int, gap: float) -> dict:
    """Check the older keys against the newer ones, write the golden, print the proofs; return the case."""
    newer, older, golden = names(variant)
    ids = tensors["input_ids"].tolist()
    assert torch.equal(forward(load(folder, older), ids), tensors["logits"]), f"{folder.name}: {older} differs"
    write_golden(folder, variant, tensors, "f32 arithmetic, CPU, eager attention, no cache")
    cached = "" if "greedy_ids_cached" not in tensors else ", cached greedy differs"
    spread = tensors["logits"].std().item()
    print(f"{folder.name} {golden}: seed {seed}, smallest lead {gap:.4f}, logit spread {spread:.2f}{cached}")
    prove(folder, variant, ids, tensors["logits"])
    return {"dir": folder.name, "configs": [newer, older], "golden": golden, "dtype": "f32"}


def derive_bf16(source: str, name: str) -> list[dict]:
    """A bf16 copy. golden: bf16 weights, f32 arithmetic; golden.bf16: what transformers gives computing in bf16."""
    folder = fresh_copy(source, name)
    weights = {k: v.to(torch.bfloat16) for k, v in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for file, key in (("config.json", "dtype"), ("config.older.json", "torch_dtype")):
        values = json.loads((folder / file).read_text())
        write_json(folder / file, values | {key: "bfloat16"})
    ids = load_file(ROOT / source / "golden.safetensors")["input_ids"].tolist()
    plain = Variant()
    tensors, gap = golden_of(load(folder, "config.json"), ids, 24)
    assert gap > GAP, f"{name}: greedy path of the rounded weights is not well defined"
    write_golden(folder, plain, tensors, "bf16 weights, f32 arithmetic, CPU, eager attention, no cache")
    rounded = forward(load(folder, "config.json", dtype=torch.bfloat16), ids)
    save_file(
        {"input_ids": torch.tensor(ids), "logits": rounded.contiguous()},
        folder / "golden.bf16.safetensors",
        metadata={"source": "tools/golden.py: bf16 weights, bf16 arithmetic, CPU, eager attention, no cache"},
    )
    print(f"{name}: bf16 arithmetic moves the logits by {(rounded - tensors['logits']).abs().max():.3f}")
    return [
        {"dir": name, "configs": ["config.json", "config.older.json"], "golden": "golden.safetensors", "dtype": "bf16"}
    ]


def derive_sharded(source: str, name: str) -> list[dict]:
    """The same checkpoint in two shards with an index."""
    folder = fresh_copy(source, name)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    order = sorted(weights)
    shards = {
        "model-00001-of-00002.safetensors": order[: len(order) // 2],
        "model-00002-of-00002.safetensors": order[len(order) // 2 :],
    }
    for file, keys in shards.items():
        save_file({k: weights[k] for k in keys}, folder / file, metadata={"format": "pt"})
    total = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": {k: f for f, keys in shards.items() for k in keys}}
    write_json(folder / "model.safetensors.index.json", index)
    golden = load_file(folder / "golden.safetensors")
    assert torch.equal(forward(load(folder, "config.json"), golden["input_ids"].tolist()), golden["logits"])
    print(f"{name}: two shards of {[len(k) for k in shards.values()]} tensors give the logits of {source}")
    return [
        {"dir": name, "configs": ["config.json", "config.older.json"], "golden": "golden.safetensors", "dtype": "f32"}
    ]


def fresh_copy(source: str, name: str) -> pathlib.Path:
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / source, folder)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="families to make; all when none is named")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ROOT.mkdir(exist_ok=True)
    listing = ROOT / "cases.json"
    cases = json.loads(listing.read_text()) if listing.exists() else []
    derive = {"bf16": derive_bf16, "sharded": derive_sharded}
    for family in FAMILIES:
        if not args.names or family.name in args.names:
            with family.within():
                made = make(family)
            cases = [c for c in cases if c["dir"] != family.name] + made
    for source, name, kind in DERIVED:
        if not args.names or name in args.names:
            cases = [c for c in cases if c["dir"] != name] + derive[kind](source, name)
    write_json(listing, sorted(cases, key=lambda c: (c["dir"], c["golden"])))
    for path in ROOT.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    size = sum(p.stat().st_size for p in ROOT.rglob("*") if p.is_file())
    print(f"{len(cases)} cases, {size / 1e6:.2f} MB in {ROOT.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
