"""Make the small tokenizers of fixtures/ with golden encodings, decodings and chat prompts.

    python3 -m venv .venv && .venv/bin/pip install -r tools/requirements.txt
    .venv/bin/python tools/golden_tokenizers.py

    fixtures/tokenizer-bytelevel/  byte-level BPE as in Qwen2; the chat template stands in tokenizer_config.json
    fixtures/tokenizer-jinja/      the same tokenizer; chat_template.jinja overrules a decoy in tokenizer_config.json
    fixtures/tokenizer-spm/        BPE with byte fallback and ▁ for space, as converted from Llama 2's SentencePiece

Each folder has golden.json, all of it given by transformers and tokenizers:

    encode  [{text, ids, ids_without_special}]     special tokens added by the post-processor, or not
    decode  [{ids, broken, text, text_without_special}]
            a genuine U+FFFD stays. broken: the bytes are not valid UTF-8, and become U+FFFD: one for each maximal
            invalid part with byte-level BPE; with byte fallback one for each byte of the whole run of byte tokens,
            valid characters in it included, which a decoder that streams cannot know in time
    chat    [{messages, tools, add_generation_prompt, variables, text, ids}]
            ids: the text encoded without adding special tokens
"""

import json
import pathlib
import shutil
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures"

# Written for this file; it only has to contain some words often enough to merge them.
SENTENCES = [
    "The bridge carries the model to the chip, and the chip carries the tokens back.",
    "A bridge that carries nothing is only a picture of a bridge.",
    "Numbers such as 1, 22, 333 and 4096 are split in their own way.",
    "def add(left, right):\n    return left + right\n",
    "It's what we've got; they'll say they're right, I'd say you don't know.",
    "桥把模型带到芯片，芯片把文字带回来。",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "你好，世界！今天天气很好，我们去河边走走。",
    "Un café, s'il vous plaît. Größe, naïve, Ærø, Привет мир, こんにちは世界, 안녕하세요.",
    "Emoji are long: 🙂 🙂 🚀 👩‍🚀 👍🏽.",
    "system user assistant tool You are a helpful assistant. 你是一个有用的助手。",
]
TEXTS = [
    "",
    " ",
    "The bridge",
    " The bridge  carries   three\tspaces\n\n and newlines \n",
    "床前明月光，疑是地上霜。",
    "生僻字：𡵓 龘 靐",
    "🙂👩‍🚀👍🏽🏳️‍🌈",
    "mixed 中文 and English，12345 tokens, it's DON'T.",
    "e\u0301 is not é until normalised",
    "a genuine \ufffd stays",
    "<|im_start|>user\nnot a <|im_end|> or <s> </s>",
    "\u0000\u0001\u007f control",
    "x" * 40,
]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# ChatML with a default system message.
CHATML = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# ChatML with the constructs that newer templates use: tools as JSON, namespace, reversed lists, string methods, macros,
# loop controls, blocks on lines of their own (trimmed), variables given by the caller, and refusals.
RICH = """\
{%- macro header(role) %}<|im_start|>{{ role }}
{% endmacro %}
{%- set ns = namespace(last_user=-1, count=0) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and ns.last_user < 0 %}
        {%- set ns.last_user = messages | length - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- if ns.last_user < 0 %}
    {{- raise_exception('a conversation needs a user message') }}
{%- endif %}
{%- if tools %}
    {{- header('system') }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content | trim ~ '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
        {{- '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- header('system') + messages[0].content | trim + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if loop.first and message.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last_user %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- header(message.role) + content.rstrip() }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>' ~ call.function.name ~ ' ' ~ call.function.arguments | tojson ~ '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- header('assistant') }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
{# a comment, and a line of its own that trimming removes #}
{% if ns.count > 3 %}
    [long]
{% endif %}
"""

# The template of the Llama 2 chat models: system text inside the first user turn, the special tokens by name.
LLAMA2_CHAT = """\
{% if messages[0]['role'] == 'system' %}
{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% set turns = messages[1:] %}
{% else %}
{% set system = '' %}
{% set turns = messages %}
{% endif %}
{% for message in turns %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('user and assistant must take turns') }}
{% endif %}
{% if message['role'] == 'user' %}
{{- bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' -}}
{% else %}
{{- ' ' + message['content'].strip() + ' ' + eos_token -}}
{% endif %}
{% endfor %}
"""


def say(role: str, content) -> dict:
    return {"role": role, "content": content}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Tell today\'s <weather> & temperature of a city, e.g. "北京"',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CONVERSATIONS = [
    dict(messages=[say("user", "Hello!")], add_generation_prompt=True),
    dict(messages=[say("user", "你好，世界！🙂")], add_generation_prompt=False),
    dict(messages=[say("system", "你是一个诗人。"), say("user", "  写一首诗  \n")], add_generation_prompt=True),
    dict(
        messages=[
            say("user", 'What\'s 1 < 2 && "x"?'),
            say("assistant", "<think>\nEasy.\n</think>\n\nTrue.\n"),
            say("user", "Why?"),
        ],
        add_generation_prompt=True,
    ),
]
RICH_CONVERSATIONS = [
    dict(messages=[say("user", "Hi")], add_generation_prompt=True, variables={"enable_thinking": False}),
    dict(messages=[say("user", "Hi")], add_generation_prompt=True, variables={"enable_thinking": True}),
    dict(messages=[say("user", "北京天气？")], add_generation_prompt=True, tools=[WEATHER]),
    dict(
        messages=[
            say("system", " Use tools. "),
            say("user", "北京天气？"),
            say("assistant", None)
            | {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}]},
            say("tool", '{"temperature": 21.5, "sky": "晴"}'),
        ],
        add_generation_prompt=True,
        tools=[WEATHER],
    ),
    dict(
        messages=[say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d")],
        add_generation_prompt=False,
    ),
]


def byte_level() -> Tokenizer:
    """Byte-level BPE with NFC, Qwen2's split and three special tokens at the end of the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    # Added, but not special: it is text, and stays when special tokens are dropped.
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in ("<think>", "</think>")])
    return tokenizer


def sentence_piece() -> Tokenizer:
    """BPE over characters with ▁ for space, unknown characters as bytes, a BOS from the post-processor."""
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(
        ["▁" + s.replace(" ", "▁") for s in SENTENCES[:8]],
        trainers.BpeTrainer(vocab_size=330, show_progress=False, limit_alphabet=120, max_token_length=12),
    )
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += sorted(model["vocab"], key=model["vocab"].get)
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


def decodings(tokenizer: Tokenizer, whole: list[list[int]], broken: list[list[int]]) -> list[dict]:
    return [
        {
            "ids": ids,
            "broken": ids in broken,
            "text": tokenizer.decode(ids, skip_special_tokens=False),
            "text_without_special": tokenizer.decode(ids, skip_special_tokens=True),
        }
        for ids in whole + broken
    ]


def encodings(tokenizer: Tokenizer) -> list[dict]:
    return [
        {
            "text": text,
            "ids": tokenizer.encode(text).ids,
            "ids_without_special": tokenizer.encode(text, add_special_tokens=False).ids,
        }
        for text in TEXTS
    ]


def chats(wrapped: PreTrainedTokenizerFast, conversations: list[dict]) -> list[dict]:
    """Render each conversation; one that the template refuses is recorded with its message under `error`."""
    golden = []
    for given in conversations:
        case = {"tools": None, "variables": {}} | given
        prompt = dict(
            tools=case["tools"],
            add_generation_prompt=case["add_generation_prompt"],
            tokenize=False,
            **case["variables"],
        )
        try:
            text = wrapped.apply_chat_template(case["messages"], **prompt)
            case |= {"text": text, "ids": wrapped.encode(text, add_special_tokens=False)}
        except Exception as error:  # jinja2's error class for raise_exception
            case |= {"error": str(error)}
        golden.append(case)
    return golden


Streams = tuple[list[list[int]], list[list[int]]]


def byte_streams(tokenizer: Tokenizer) -> Streams:
    vocab = tokenizer.get_vocab()
    alphabet = {}
    offset = 0
    for byte in range(256):
        visible = 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255
        alphabet[byte] = vocab[chr(byte if visible else 256 + offset)]
        offset += not visible
    raw = lambda data: [alphabet[b] for b in data]  # noqa: E731
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False).ids  # noqa: E731
    whole, broken = streams(encode, raw, vocab["<|im_end|>"])
    whole.append(raw("中".encode()) + [vocab["<think>"]] + raw("文".encode()))
    broken.append(raw("中".encode()[:2]) + [vocab["</think>"]] + raw("文".encode()))
    return whole, broken


def piece_streams(tokenizer: Tokenizer) -> Streams:
    vocab = tokenizer.get_vocab()
    raw = lambda data: [vocab[f"<0x{b:02X}>"] for b in data]  # noqa: E731
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False).ids  # noqa: E731
    whole, broken = streams(encode, raw, vocab["</s>"])
    whole.append([vocab["<s>"]] + encode("The bridge"))
    whole.append(encode("The") + raw("龘".encode()) + encode("bridge"))
    whole.append([vocab["<unk>"]])
    return whole, broken


def streams(encode, raw, special: int) -> Streams:
    """Token streams that a model may give: whole texts; texts cut inside a character, bytes in a wrong order."""
    smile, light = "🙂".encode(), "光".encode()
    whole = [
        [],
        encode("The bridge carries tokens."),
        encode(" two leading spaces"),
        encode("床前明月光，疑是地上霜。"),
        raw("床前明月光".encode()),
        raw("a🙂b👩‍🚀c".encode()),
        encode("a genuine \ufffd stays"),
        raw("\ufffd\ufffdx".encode()),
        raw("中".encode()) + [special] + raw("文".encode()),
    ]
    broken = [
        raw(smile[:2]),
        raw(smile[:3]) + encode("bridge"),
        raw(b"\xff") + encode("bridge"),
        raw(b"\x80\x80" + light),
        raw(light[:2] + light),
        raw(b"\xf4\x90\x80\x80\xc0\xaf"),
        raw(light[:2]) + [special] + raw(light),
    ]
    return whole, broken


def write(name: str, tokenizer: Tokenizer, config: dict, golden: dict, template_file: str | None = None) -> None:
    """Write a folder, read it back with transformers, and add the chat goldens that this gives."""
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | config
    write_json(folder / "tokenizer_config.json", config)
    if template_file:
        (folder / "chat_template.jinja").write_text(template_file, encoding="utf-8")
    wrapped = PreTrainedTokenizerFast.from_pretrained(folder)
    assert wrapped.chat_template == (template_file or config["chat_template"])
    golden["chat"] = chats(wrapped, golden["chat"])
    for case in golden["encode"]:
        assert wrapped.encode(case["text"]) == case["ids"]
    write_json(folder / "golden.json", golden)
    errors = sum("error" in c for c in golden["chat"])
    print(
        f"{name}: vocabulary {tokenizer.get_vocab_size()}, {len(golden['encode'])} encodings, "
        f"{len(golden['decode'])} decodings, {len(golden['chat'])} chats of which {errors} are refused"
    )


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    bpe = byte_level()
    golden = {"encode": encodings(bpe), "decode": decodings(bpe, *byte_streams(bpe))}
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 1024}
    write("tokenizer-bytelevel", bpe, names | {"chat_template": CHATML}, golden | {"chat": CONVERSATIONS})
    refused = [dict(messages=[say("system", "alone")], add_generation_prompt=True)]
    write(
        "tokenizer-jinja",
        bpe,
        names | {"chat_template": "a decoy: chat_template.jinja comes first"},
        {"encode": [], "decode": [], "chat": CONVERSATIONS + RICH_CONVERSATIONS + refused},
        RICH,
    )
    spm = sentence_piece()
    turns = [
        dict(
            messages=[say("user", "Hello"), say("assistant", " Hi. "), say("user", "More?")], add_generation_prompt=True
        ),
        dict(messages=[say("user", "a"), say("user", "b")], add_generation_prompt=True),
    ]
    write(
        "tokenizer-spm",
        spm,
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": LLAMA2_CHAT},
        {
            "encode": encodings(spm),
            "decode": decodings(spm, *piece_streams(spm)),
            "chat": CONVERSATIONS + turns,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
