"""Train the embedded demo model: a small Qwen3 that knows three hundred Tang and a hundred Song poems.

    python3 -m venv .venv && .venv/bin/pip install -r tools/requirements.txt
    .venv/bin/python tools/train_demo.py

The corpus is the Debian package fortunes-zh (files tang300 and song100, classical poetry in the public
domain). The script downloads it with `apt-get download`; elsewhere, unpack the package and give the folder
that holds the two files with `--corpus DIR`. Only the poems are read, and the corpus is not kept.

Results:
    crates/qiao/demo/               config.json, generation_config.json, tokenizer.json,
                                    tokenizer_config.json, model.safetensors (bf16)
    fixtures/demo-golden.safetensors  input_ids, logits, greedy_ids for the prompt 床前明月光

What the model learns. A document is

    《title》author\\n
    verse，verse。verse，verse。<|endoftext|>

and it is seen in three ways: whole; from the first verse on, so that a bare first verse as a prompt is enough;
and from a random verse on. Positions start at 0 in each. A title as the corpus has it, such as 《夜思》, is a prompt
too.
The seed is fixed and one thread is used, so a run repeats itself on the same machine and library versions.

A character is one token when it occurs in the corpus, and falls back to its UTF-8 bytes when it does not, so any text
can be encoded.
"""

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
EOS = "<|endoftext|>"
CONTEXT = 512
# A prompt and the continuation that greedy decoding has to give.
MUST_CONTINUE = {
    "床前明月光": "，疑是地上霜。举头望明月，低头思故乡。",
    "春眠不觉晓": "，处处闻啼鸟。夜来风雨声，花落知多少。",
    "白日依山尽": "，黄河入海流。欲穷千里目，更上一层楼。",
    "千山鸟飞绝": "，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。",
    "《夜思》": "李白\n床前明月光，疑是地上霜。举头望明月，低头思故乡。",
}
# With chat, the user's last message is the beginning of a poem (or a title in 《》) and the answer is the rest.
CHAT_TEMPLATE = "{% for message in messages %}{% if loop.last %}{{ message['content'] }}{% endif %}{% endfor %}"


def fetch_corpus(folder: pathlib.Path) -> pathlib.Path:
    """Download fortunes-zh with apt and unpack it below `folder`; no root rights are needed."""
    subprocess.run(["apt-get", "download", "-q", "fortunes-zh"], cwd=folder, check=True)
    package = next(folder.glob("fortunes-zh_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "root")], check=True)
    return folder / "root/usr/share/games/fortunes"


def clean(text: str) -> str:
    """Drop terminal colours and write each mark in its full-width Chinese form."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = text.replace("\u3000", " ").replace("\r", "")
    return text.translate(str.maketrans({",": "，", ".": "。", ":": "：", "?": "？", "!": "！", ";": "；"}))


def poems_of(path: pathlib.Path) -> list[tuple[str, str, str]]:
    """Read (title, author, body) of each poem; a numbered part (其一) becomes a poem of its own."""
    poems = []
    for entry in re.split(r"^%\s*$", clean(path.read_text(encoding="utf-8")), flags=re.M):
        lines = [line.strip() for line in entry.split("\n") if line.strip()]
        if len(lines) < 3:
            continue
        title = re.sub(r"^题目：", "", lines[0])
        title = re.search(r"《(.*)》", title).group(1)
        author = re.sub(r"^作者：", "", lines[1])
        author = re.sub(r"（.*?）", "", author).strip()
        part, body = "", []
        for line in lines[2:]:
            if re.fullmatch(r"其[一二三四五六七八九十]+", line):
                if body:
                    poems.append((title + part, author, "".join(body)))
                part, body = "・" + line, []
            else:
                body.append(line)
        poems.append((title + part, author, "".join(body)))
    return poems


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE whose merges stay inside one character, until every character of the corpus is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}|\P{Han}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=1,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def view(poem: tuple[list[int], list[int], list[int]], rng: random.Random) -> list[int]:
    """One training view of a poem: whole, from the first verse, or from a random verse; at most CONTEXT ids."""
    header, body, starts = poem
    kind = rng.random()
    if kind < 0.35:
        ids = header + body
    elif kind < 0.75:
        ids = body
    else:
        ids = body[rng.choice(starts) :]
    return ids[:CONTEXT]


def batches(poems, rng: random.Random, tokens: int):
    """One epoch of right-padded batches of about `tokens` ids, sorted by length so that little is padding."""
    samples = sorted((view(p, rng) for p in poems), key=lambda s: (len(s), rng.random()))
    groups, group = [], []
    for sample in samples:
        if group and len(sample) * (len(group) + 1) > tokens:
            groups.append(group)
            group = []
        group.append(sample)
    groups.append(group)
    rng.shuffle(groups)
    for group in groups:
        width = max(map(len, group))
        ids = torch.zeros(len(group), width, dtype=torch.long)
        labels = torch.full((len(group), width), -100, dtype=torch.long)
        for row, sample in enumerate(group):
            ids[row, : len(sample)] = torch.tensor(sample)
            labels[row, : len(sample)] = torch.tensor(sample)
        yield ids, labels


def model_config(vocab: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocab,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.03,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
        use_cache=True,
    )


def train(model, poems, args) -> None:
    """Train with a short warm-up, then a rate that falls in a line to a fiftieth."""
    rng = random.Random(args.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    began = time.time()
    for epoch in range(args.epochs):
        total, count = 0.0, 0
        todo = list(batches(poems, rng, args.tokens))
        for step, (ids, labels) in enumerate(todo):
            done = (epoch + step / len(todo)) / args.epochs
            rate = args.lr * min(1.0, done / 0.03 + 0.02) * (0.02 + 0.98 * (1.0 - done))
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = model(input_ids=ids, labels=labels).loss
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            total, count = total + loss.item(), count + 1
        print(f"epoch {epoch + 1}/{args.epochs} loss {total / count:.4f} {time.time() - began:.0f} s", flush=True)


def greedy(model, ids: list[int], limit: int) -> tuple[list[int], float]:
    """Greedy ids after `ids`, up to and with the end token, and the smallest top-1/top-2 gap on the way."""
    new, gap = [], float("inf")
    with torch.no_grad():
        while len(new) < limit:
            logits = model(input_ids=torch.tensor([ids + new])).logits[0, -1]
            top = logits.topk(2)
            gap = min(gap, (top.values[0] - top.values[1]).item())
            new.append(top.indices[0].item())
            if new[-1] == model.config.eos_token_id:
                break
    return new, gap


def save(model, tokenizer: Tokenizer, out: pathlib.Path) -> None:
    """Write the checkpoint folder: the newer config keys, weights in bf16, no tied copy of the embedding."""
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = ["Qwen3ForCausalLM"]
    config = json.loads(model.config.to_json_string(use_diff=False))
    keep = (
        "architectures model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim hidden_act max_position_embeddings rms_norm_eps rope_parameters attention_bias "
        "use_sliding_window tie_word_embeddings eos_token_id"
    ).split()
    config = {key: config[key] for key in keep} | {"dtype": "bfloat16"}
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", {"do_sample": False, "eos_token_id": 0, "max_new_tokens": 256})
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def recites(model, tokenizer, prompt: str, document: str) -> bool:
    """True when greedy decoding of `prompt`, with a cache, gives the document to its end."""
    ids = torch.tensor([tokenizer.encode(prompt)])
    whole = model.generate(ids, max_new_tokens=80, do_sample=False)[0].tolist()
    return tokenizer.decode(whole, skip_special_tokens=True) == document


def check(out: pathlib.Path, poems: list[tuple[str, str, str]], golden: pathlib.Path) -> bool:
    """Load the saved folder afresh, decode greedily in f32, and write the golden. True when all prompts hold."""
    model = Qwen3ForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    good = True
    for prompt, expected in MUST_CONTINUE.items():
        ids, gap = greedy(model, tokenizer.encode(prompt), 80)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        good &= text == expected
        print(f"{'ok ' if text == expected else 'BAD'} {prompt} -> {text!r} smallest gap {gap:.3f}")
    short = [p for p in poems if len(p[2]) <= 64]
    print(f"of {len(short)} poems of at most 64 characters come back exactly")
    firsts = [(re.match(r"[^，。？！；、：]+", body).group(0), body) for _, _, body in short]
    print(f"  from their first verse: {sum(recites(model, tokenizer, *pair) for pair in firsts)}")
    heads = [(f"《{title}》{author}\n", f"《{title}》{author}\n{body}") for title, author, body in short]
    print(f"  from title and author: {sum(recites(model, tokenizer, *pair) for pair in heads)}")
    ids = tokenizer.encode("床前明月光")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    new, _ = greedy(model, ids, 32)
    golden.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {"input_ids": torch.tensor(ids), "logits": logits.contiguous(), "greedy_ids": torch.tensor(new)},
        golden,
        metadata={"source": "tools/train_demo.py: bf16 weights, f32 arithmetic, CPU, eager attention, no cache"},
    )
    return good


def train_from_scratch(poems: list[tuple[str, str, str]], args) -> None:
    """Make the tokenizer, train the model, and save both to args.out."""
    documents = [(f"《{title}》{author}\n", body + EOS) for title, author, body in poems]
    tokenizer = train_tokenizer([head + body.removesuffix(EOS) for head, body in documents])
    encoded = []
    for head, body in documents:
        ids = tokenizer.encode(body).ids
        verse = [i + 1 for i, c in enumerate(body.removesuffix(EOS)) if c in "，。？！；、："]
        assert len(ids) == len(body) - len(EOS) + 1, "one token per character of the corpus"
        # Windows of a long poem start at its verses, so every verse gets its turn.
        encoded.append((tokenizer.encode(head).ids, ids, [0] + verse[:-1]))
    model = Qwen3ForCausalLM(model_config(tokenizer.get_vocab_size()))
    print(
        f"{len(poems)} poems, {sum(len(e[1]) for e in encoded)} ids, vocabulary {tokenizer.get_vocab_size()}, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters",
        flush=True,
    )
    train(model, encoded, args)
    save(model, tokenizer, args.out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=pathlib.Path, help="folder with tang300 and song100")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "crates/qiao/demo")
    parser.add_argument("--golden", type=pathlib.Path, default=ROOT / "fixtures/demo-golden.safetensors")
    parser.add_argument("--check", action="store_true", help="train nothing: check --out as it is, write its golden")
    parser.add_argument("--epochs", type=int, default=130)
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--tokens", type=int, default=1280, help="ids per batch")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        corpus = args.corpus or fetch_corpus(pathlib.Path(temporary))
        poems = poems_of(corpus / "tang300") + poems_of(corpus / "song100")
    if not args.check:
        train_from_scratch(poems, args)
    return 0 if check(args.out, poems, args.golden) else 1


if __name__ == "__main__":
    sys.exit(main())
