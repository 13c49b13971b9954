//! Files split into parts: `<prefix>-00001-of-00003.gguf` and its siblings. Metadata stands in the first part; every part
//! says which it is.

use crate::error::{GgufError, Result, excerpt};
use crate::reader::Gguf;

const NO_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";
const DIGITS: usize = 5;
const SUFFIX: &str = ".gguf";
const MEND: &str = "put all parts of one split file into one folder, under the names that they were made with";

/// What a part says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Which part this is, from 0.
    pub no: u64,
    /// How many parts there are.
    pub count: u64,
    /// Tensors of all parts together, where the part says so.
    pub tensors: Option<u64>,
}

impl Gguf {
    /// What the file says about the parts it belongs to; `None` where it is whole.
    ///
    /// # Errors
    /// Keys that are no whole numbers.
    pub fn split(&self) -> Result<Option<Split>> {
        let metadata = self.metadata();
        let count = metadata.uint(COUNT_KEY)?.unwrap_or(0);
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(Split { no: metadata.uint(NO_KEY)?.unwrap_or(0), count, tensors: metadata.uint(TENSORS_KEY)? }))
    }
}

/// The file name of a part, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitName {
    /// What stands before the numbers.
    pub prefix: String,
    /// Which part this is, from 1.
    pub number: u32,
    /// How many parts there are.
    pub count: u32,
}

impl SplitName {
    /// Takes a file name (without folders) apart; `None` for one that is no part's.
    pub fn parse(file_name: &str) -> Option<SplitName> {
        let rest = file_name.strip_suffix(SUFFIX)?;
        let (rest, count) = digits_off(rest)?;
        let (rest, number) = digits_off(rest.strip_suffix("-of-")?)?;
        let prefix = rest.strip_suffix('-')?.to_string();
        (1..=count).contains(&number).then_some(SplitName { prefix, number, count })
    }

    /// The file name of part `number`, from 1.
    pub fn name(&self, number: u32) -> String {
        format!("{}-{number:0DIGITS$}-of-{:0DIGITS$}{SUFFIX}", self.prefix, self.count)
    }

    /// The file names of all parts, in order, this one's included.
    pub fn siblings(&self) -> impl Iterator<Item = String> {
        let first = SplitName { number: 1, ..self.clone() };
        (1..=self.count).map(move |number| first.name(number))
    }
}

fn digits_off(text: &str) -> Option<(&str, u32)> {
    let at = text.len().checked_sub(DIGITS)?;
    let (rest, digits) = text.split_at_checked(at)?;
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some((rest, number))
}

/// Checks that files are the parts of one split file, whole and in order. `names` are for error texts.
///
/// # Errors
/// [`GgufError::Split`]: a part that is not where its number puts it, another count of parts or of tensors than stated, a
/// tensor that two parts hold.
pub fn check_parts<'a>(parts: impl IntoIterator<Item = (&'a str, &'a Gguf)> + Clone) -> Result<()> {
    let bad = |name: &str, found: String| GgufError::Split { found: format!("{}: {found}", excerpt(name)), mend: MEND };
    let given = parts.clone().into_iter().count() as u64;
    let held: u64 = parts.clone().into_iter().map(|(_, part)| part.tensors().len() as u64).sum();
    let mut names = Vec::new();
    for (index, (name, part)) in parts.into_iter().enumerate() {
        let Some(split) = part.split()? else {
            return Err(bad(name, format!("has no key {COUNT_KEY:?}: it is no part of a split file")));
        };
        if split.count != given {
            return Err(bad(name, format!("is one of {} parts, {given} were found", split.count)));
        }
        if split.no != index as u64 {
            return Err(bad(name, format!("says that it is part {}, its name that it is {}", split.no + 1, index + 1)));
        }
        if let Some(tensors) = split.tensors.filter(|&n| n != held) {
            return Err(bad(name, format!("says that the parts hold {tensors} tensors, they hold {held}")));
        }
        names.extend(part.tensors().iter().map(|t| (t.name.as_str(), name)));
    }
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(bad(pair[1].1, format!("tensor {:?} is held by {} as well", excerpt(pair[0].0), pair[0].1))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_names_its_siblings() {
        let name = SplitName::parse("tiny-q8-00002-of-00003.gguf").unwrap();
        assert_eq!((name.prefix.as_str(), name.number, name.count), ("tiny-q8", 2, 3));
        let siblings: Vec<_> = name.siblings().collect();
        assert_eq!(
            siblings,
            ["tiny-q8-00001-of-00003.gguf", "tiny-q8-00002-of-00003.gguf", "tiny-q8-00003-of-00003.gguf"]
        );
    }

    #[test]
    fn names_that_are_no_part_are_told_apart() {
        for name in [
            "tiny.gguf",
            "a-00004-of-00003.gguf",
            "a-00000-of-00003.gguf",
            "a-1-of-3.gguf",
            "a-0000x-of-00003.gguf",
            "-of-00003.gguf",
            "é0001-of-00003.gguf",
            "a-00001-of-00003.safetensors",
        ] {
            assert_eq!(SplitName::parse(name), None, "{name}");
        }
    }
}
