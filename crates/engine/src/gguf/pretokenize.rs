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

/// Letters with a case, of most scripts. By their numbers, since some have twins that editors put in their place.
const DEEPSEEK_LLM_WORD: &str = concat!(
    r"\s?[A-Za-z",
    r"\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}",
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}",
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}",
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}",
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}",
    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}",
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}",
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}",
    r"\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}-\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}",
    r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}",
    r"\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}",
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
    "]+"
);

const PLAIN: Pretokenizer =
    Pretokenizer { names: &[], cuts: &[GPT2], ignore_merges: false, add_bos: false, compose: false };

/// The ways that are known, one line each.
pub(super) const PRETOKENIZERS: &[Pretokenizer] = &[
    Pretokenizer { names: &["gpt-2", "gpt2", "mpt", "olmo", "jais"], ..PLAIN },
    Pretokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
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
        names: &["deepseek-llm"],
        cuts: &[
            r"[\r\n]",
            DEEPSEEK_LLM_WORD,
            r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+",
            r"\s+$",
            "[一-龥ࠀ-一가-퟿]+",
            r"\p{N}+",
        ],
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

    #[test]
    fn deepseek_llm_cuts_cased_words_marks_chinese_and_numbers() {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper};
        let cut = |cut: &&str| {
            let pattern = serde_json::json!({ "Regex": cut });
            serde_json::json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false })
        };
        let steps: Vec<_> = pretokenizer("deepseek-llm").unwrap().cuts.iter().map(cut).collect();
        let all = serde_json::json!({ "type": "Sequence", "pretokenizers": steps });
        let all: PreTokenizerWrapper = serde_json::from_value(all).unwrap();
        let mut text = PreTokenizedString::from("Hi über, 中文12\n ");
        all.pre_tokenize(&mut text).unwrap();
        let found = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let found: Vec<&str> = found.into_iter().map(|(text, ..)| text).collect();
        // The marks of the third cut have the letters of ASCII among them.
        assert_eq!(found, ["Hi", " ü", "ber", ",", " ", "中文", "12", "\n", " "]);
    }
}
