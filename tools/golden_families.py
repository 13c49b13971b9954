"""The table of tiny checkpoints that tools/golden.py makes: shapes, rope scalings, prompts and proofs."""

import contextlib
import dataclasses
import typing
from unittest import mock

from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.glm4_moe import modeling_glm4_moe
from transformers.models.llama import modeling_llama

Change = typing.Callable[[dict], typing.Any]


def nothing(_values: dict) -> None:
    """Leave the config as it is."""


@dataclasses.dataclass
class Variant:
    """One golden over a checkpoint's weights: a prompt of `prompt` ids and `greedy` more, under an edited config.

    `proofs` are config edits and `weight_proofs` weight edits that must show in the logits.
    """

    name: str = ""
    prompt: int = 48
    greedy: int = 24
    change: Change = nothing
    proofs: dict[str, Change] = dataclasses.field(default_factory=dict)
    weight_proofs: dict[str, typing.Callable] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Family:
    """A checkpoint: `kind` and `keys` make its config; `attention_std` is the spread of the q and k projections.

    `within` surrounds everything that is computed with it.
    """

    name: str
    kind: type
    keys: dict
    variants: list[Variant]
    seed: int = 1
    attention_std: float = 0.13
    within: typing.Callable[[], typing.ContextManager] = contextlib.nullcontext

    def config(self):
        base = dict(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=56,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=1,
            eos_token_id=2,
            dtype="float32",
        )
        return self.kind(**(base | self.keys))


def rope(**keys) -> Change:
    """Edit rope_parameters; a value of None removes the key."""

    def change(values: dict) -> None:
        values["rope_parameters"].update(keys)
        values["rope_parameters"] = {k: v for k, v in values["rope_parameters"].items() if v is not None}

    return change


def unscaled(values: dict) -> None:
    """Forget the scaling."""
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": values["rope_parameters"]["rope_theta"]}


def top(**keys) -> Change:
    """Edit keys of the config itself."""
    return lambda values: values.update(keys)


def both(*changes: Change) -> Change:
    def change(values: dict) -> None:
        for one in changes:
            one(values)

    return change


def fill(suffixes: tuple[str, ...], value: float):
    """Overwrite the parameters whose names end so; tells whether it did."""

    def edit(name: str, weight) -> bool:
        hit = name.endswith(suffixes)
        if hit:
            weight.fill_(value)
        return hit

    return edit


def reorder_heads(order: list[int]):
    """Put the rows of every q and k head in another order: with both alike, only what rope does to them changes."""

    def edit(name: str, weight) -> bool:
        hit = name.endswith(("q_proj.weight", "k_proj.weight"))
        if hit:
            heads = weight.view(-1, len(order), weight.shape[-1])
            heads.copy_(heads[:, order].clone())
        return hit

    return edit


def partial_rope() -> typing.ContextManager:
    """Let transformers' Llama honour partial_rotary_factor.

    Its own rotary embedding of type "default" ignores the factor, and its own apply_rotary_pos_emb rotates the whole
    head. GLM-4 MoE's, which transformers has beside them, compute the frequencies of the first
    head_dim * partial_rotary_factor dimensions, rotate these half against half as Llama does, and pass on the rest.
    """
    return mock.patch.multiple(
        modeling_llama,
        LlamaRotaryEmbedding=modeling_glm4_moe.Glm4MoeRotaryEmbedding,
        apply_rotary_pos_emb=modeling_glm4_moe.apply_rotary_pos_emb,
    )


SHORT = [1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0]
LONG = [1.0, 1.3, 1.9, 2.7, 4.1, 6.0, 9.5, 16.0]
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}

LLAMA2 = Family(
    "llama2-mha",
    LlamaConfig,
    dict(
        num_key_value_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
    ),
    [Variant(prompt=40, proofs={"theta 5e5": rope(rope_theta=500000.0)})],
)

LLAMA3 = Family(
    "llama3-gqa",
    LlamaConfig,
    dict(
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 48,
        },
        max_position_embeddings=384,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        eos_token_id=[2, 3],
    ),
    [
        Variant(
            prompt=56,
            proofs={
                "scaling dropped": unscaled,
                "factor halved": rope(factor=4.0),
                "no band between low and high": rope(high_freq_factor=1.0001),
                "original context doubled": rope(original_max_position_embeddings=96),
            },
        )
    ],
)

LINEAR = Family(
    "llama-linear",
    LlamaConfig,
    dict(
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        tie_word_embeddings=True,
    ),
    [Variant(proofs={"scaling dropped": unscaled, "factor halved": rope(factor=2.0)})],
)

# Heads of 16 dimensions of which the first 8 are rotated: 4 frequencies, dimension i paired with i + 4.
PARTIAL = Family(
    "llama-partial",
    LlamaConfig,
    dict(
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        tie_word_embeddings=True,
    ),
    [
        Variant(
            proofs={
                "whole head rotated": rope(partial_rotary_factor=None),
                "a quarter of the head rotated": rope(partial_rotary_factor=0.25),
                # theta^(-2i/16) is (theta^(1/2))^(-2i/8)
                "frequencies spread over the whole head": rope(rope_theta=100.0),
            },
            weight_proofs={
                "last half rotated": reorder_heads([*range(8, 16), *range(8)]),
                "pairs half a head apart": reorder_heads([*range(4), *range(8, 12), *range(4, 8), *range(12, 16)]),
            },
        )
    ],
    within=partial_rope,
)

# max_position_embeddings is the original context here; positions past it are reached by the scaling.
DYNAMIC = Family(
    "llama-dynamic",
    LlamaConfig,
    dict(
        max_position_embeddings=32,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        tie_word_embeddings=True,
    ),
    [
        Variant(
            proofs={
                "scaling dropped": unscaled,
                "factor halved": rope(factor=2.0),
                "original context off by one": top(max_position_embeddings=33),
            }
        ),
        Variant(name="short", prompt=20, greedy=8),
    ],
)

YARNS = Family(
    "llama-yarn",
    LlamaConfig,
    dict(rope_parameters=dict(YARN), tie_word_embeddings=True),
    [
        Variant(
            proofs={
                "scaling dropped": unscaled,
                "attention factor 1": rope(attention_factor=1.0),
                "original context from max_position_embeddings": rope(original_max_position_embeddings=128),
            }
        ),
        Variant(
            name="mscale",
            change=rope(mscale=1.0, mscale_all_dim=0.5),
            proofs={"mscale keys ignored": rope(mscale=None, mscale_all_dim=None)},
        ),
        Variant(
            name="betas",
            change=rope(beta_fast=4.0, beta_slow=0.5, truncate=False, attention_factor=1.3),
            proofs={
                "truncated ramp": rope(truncate=True),
                "betas ignored": rope(beta_fast=None, beta_slow=None),
                "attention factor ignored": rope(attention_factor=None),
            },
        ),
    ],
)

LONGROPE = Family(
    "llama-longrope",
    LlamaConfig,
    dict(
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": SHORT,
            "long_factor": LONG,
            "original_max_position_embeddings": 32,
        },
        tie_word_embeddings=True,
    ),
    [
        Variant(
            proofs={
                "scaling dropped": unscaled,
                "short factors for a long prompt": rope(long_factor=SHORT),
                "attention factor 1": rope(attention_factor=1.0),
            }
        ),
        Variant(name="short", prompt=20, greedy=8, proofs={"long factors for a short prompt": rope(short_factor=LONG)}),
    ],
)

QWEN2 = Family(
    "qwen2-bias",
    Qwen2Config,
    dict(rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, tie_word_embeddings=True),
    [
        Variant(
            prompt=40,
            proofs={"theta 1e4": rope(rope_theta=10000.0)},
            weight_proofs={
                "q bias dropped": fill(("q_proj.bias",), 0.0),
                "k bias dropped": fill(("k_proj.bias",), 0.0),
                "v bias dropped": fill(("v_proj.bias",), 0.0),
            },
        )
    ],
)

QWEN2_SLIDING = Family(
    "qwen2-sliding",
    Qwen2Config,
    dict(
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        use_sliding_window=True,
        sliding_window=12,
        max_window_layers=1,
        tie_word_embeddings=True,
    ),
    [
        Variant(
            prompt=40,
            proofs={
                "no window": top(use_sliding_window=False, layer_types=None),
                "window in every layer": top(max_window_layers=0, layer_types=None),
                "window of 11": top(sliding_window=11),
                "window of 13": top(sliding_window=13),
            },
        )
    ],
)

QWEN3 = Family(
    "qwen3-qknorm",
    Qwen3Config,
    dict(
        head_dim=32,
        intermediate_size=72,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=False,
    ),
    [
        Variant(
            prompt=40,
            proofs={"theta 1e4": rope(rope_theta=10000.0)},
            weight_proofs={
                "q_norm weight ignored": fill(("q_norm.weight",), 1.0),
                "k_norm weight ignored": fill(("k_norm.weight",), 1.0),
            },
        )
    ],
)

MISTRAL = Family(
    "mistral-window",
    MistralConfig,
    dict(
        num_hidden_layers=3,
        intermediate_size=40,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        sliding_window=16,
        tie_word_embeddings=False,
    ),
    [
        Variant(
            prompt=50,
            proofs={
                "no window": top(sliding_window=None),
                "window halved": top(sliding_window=8),
                "window of 15": top(sliding_window=15),
                "window of 17": top(sliding_window=17),
            },
        )
    ],
)

FAMILIES = [LLAMA2, LLAMA3, LINEAR, PARTIAL, DYNAMIC, YARNS, LONGROPE, QWEN2, QWEN2_SLIDING, QWEN3, MISTRAL]
# (source, name, kind) of the checkpoints that repeat another one in a different form.
DERIVED = [("llama3-gqa", "llama3-gqa-bf16", "bf16"), ("qwen2-bias", "qwen2-bias-sharded", "sharded")]
