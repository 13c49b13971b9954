//! How byte-level tokenizers cut text before they merge: `tokenizer.ggml.pre` names one of these.

/// A way of cutting, as the original tokenizers of the models have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pretokenizer {
    /// The names that it goes by.
    pub(super) names: &'static [&'static str],
    /// Regular expressions; each cuts what those before it have left.
    pub(super) cuts: &'static [&'static str],
    /// Whether a piece that is a token as a whole is not merged together from its bytes.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with BOS where the file does not say.
    pub(super) add_bos: bool,
    /// Whether text is composed (Unicode NFC) first.
    pub(super) compose: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const PLAIN: Pretokenizer =
    Pretokenizer { names: &[], cuts: &[GPT2], ignore_merges: false, add_bos: false, compose: false };

/// The ways that are known, one line each.
pub(super) const PRETOKENIZERS: &[Pretokenizer] = &[
    Pretokenizer { names: &["gpt-2", "gpt2", "mpt", "olmo", "jais"], ..PLAIN },
    Pretokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        cuts: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Pretokenizer { names: &["smaug-bpe", "dbrx", "chatglm-bpe", "glm4"], cuts: &[LLAMA3], ..PLAIN },
    Pretokenizer { names: &["qwen2"], cuts: &[QWEN2], compose: true, ..PLAIN },
    Pretokenizer { names: &["deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "grok-2"], cuts: &[QWEN2], ..PLAIN },
    Pretokenizer {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone"],
        cuts: &[r"\p{N}", GPT2],
        ..PLAIN
    },
    Pretokenizer { names: &["tekken"], cuts: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
    Pretokenizer {
        names: &["deepseek-v3", "hunyuan-dense"],
        cuts: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK],
        ..PLAIN
    },
    Pretokenizer {
        names: &["deepseek-coder"],
        cuts: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
        ..PLAIN
    },
    Pretokenizer { names: &["default"], cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..PLAIN },
];

/// The way of a name.
pub(super) fn pretokenizer(name: &str) -> Option<&'static Pretokenizer> {
    PRETOKENIZERS.iter().find(|p| p.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_once() {
        let names: Vec<_> = PRETOKENIZERS.iter().flat_map(|p| p.names).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name}");
        }
        assert!(pretokenizer("llama-bpe").is_some_and(|p| p.ignore_merges));
        assert!(pretokenizer("martian").is_none());
    }
}
