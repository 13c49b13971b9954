//! As much of an ELF file as tells whether it can be loaded here, and why not.
//!
//! The file is not trusted: whatever its headers claim, no more is read than it has.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What a file is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    number: u16,
    bits: u8,
    little: bool,
}

impl Machine {
    /// That of this process.
    pub(super) fn here() -> Machine {
        let number = match std::env::consts::ARCH {
            "x86_64" => 62,
            "aarch64" => 183,
            "loongarch64" => 258,
            "riscv64" => 243,
            "powerpc64" => 21,
            "s390x" => 22,
            _ => 0,
        };
        Machine { number, bits: usize::BITS as u8, little: cfg!(target_endian = "little") }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.number {
            3 => "i386",
            40 => "arm",
            62 => "x86_64",
            183 => "aarch64",
            258 => "loongarch64",
            243 => "riscv",
            8 => "mips",
            21 => "powerpc64",
            22 => "s390x",
            n => return write!(f, "ELF machine {n} of {} bits", self.bits),
        };
        write!(f, "{name}{}", if self.little { "" } else { " (big-endian)" })
    }
}

/// A shared library from outside.
#[derive(Debug, Default)]
pub(super) struct Elf {
    pub(super) machine: Machine,
    pub(super) is_shared: bool,
    /// Libraries that it needs.
    pub(super) needs: Vec<String>,
    /// Symbols that it exports.
    pub(super) gives: Vec<String>,
    /// Symbols that it wants of others.
    pub(super) wants: Vec<String>,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { number: 0, bits: 0, little: true }
    }
}

/// Why a file can't be read as ELF.
pub(super) enum Trouble {
    Unreadable(String),
    NoElf(String),
}

/// No plugin is larger. One that is gets loaded without being looked into.
const MOST: u64 = 4 << 30;

/// No list is longer.
const MOST_ENTRIES: usize = 1 << 20;

impl Elf {
    /// Reads a file. Tables that make no sense are left to the loader, which says what is wrong with them.
    pub(super) fn read(path: &Path) -> Result<Elf, Trouble> {
        let unreadable = |e: std::io::Error| Trouble::Unreadable(e.to_string());
        let mut file = File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(Trouble::Unreadable("it is no file".into()));
        }
        let mut head = [0; 64];
        let mut got = 0;
        while got < head.len() {
            match file.read(&mut head[got..]).map_err(unreadable)? {
                0 => break,
                n => got += n,
            }
        }
        let mut elf = header(&head[..got])?;
        if elf.machine == Machine::here() && elf.machine.bits == 64 && elf.machine.little && meta.len() <= MOST {
            let mut bytes = head[..got].to_vec();
            file.read_to_end(&mut bytes).map_err(unreadable)?;
            Tables { bytes: &bytes }.read(&mut elf);
        }
        Ok(elf)
    }
}

/// What the first bytes say.
fn header(head: &[u8]) -> Result<Elf, Trouble> {
    if head.is_empty() {
        return Err(Trouble::NoElf("it is empty".into()));
    }
    if head.len() < 20 || head[..4] != *b"\x7fELF" {
        let text = if head.starts_with(b"#!") || head.iter().all(|b| b.is_ascii()) { "text" } else { "something else" };
        return Err(Trouble::NoElf(format!("it is no ELF file, but {text}")));
    }
    let little = head[5] != 2;
    let half = |at: usize| {
        let two = [head[at], head[at + 1]];
        if little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) }
    };
    let bits = if head[4] == 1 { 32 } else { 64 };
    Ok(Elf { machine: Machine { number: half(18), bits, little }, is_shared: half(16) == 3, ..Elf::default() })
}

/// A little-endian file of 64 bits.
struct Tables<'a> {
    bytes: &'a [u8],
}

/// A section: its type, where it lies, and its neighbours.
struct Section {
    kind: u64,
    offset: usize,
    size: usize,
    link: usize,
}

impl<'a> Tables<'a> {
    fn number(&self, at: usize, bytes: usize) -> Option<u64> {
        let slice = self.bytes.get(at..at.checked_add(bytes)?)?;
        Some(slice.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn section(&self, index: usize) -> Option<Section> {
        let table = self.number(40, 8)? as usize;
        let (size, count) = (self.number(58, 2)? as usize, self.number(60, 2)? as usize);
        if index >= count || size < 64 {
            return None;
        }
        let at = table.checked_add(index.checked_mul(size)?)?;
        Some(Section {
            kind: self.number(at.checked_add(4)?, 4)?,
            offset: self.number(at.checked_add(24)?, 8)? as usize,
            size: self.number(at.checked_add(32)?, 8)? as usize,
            link: self.number(at.checked_add(40)?, 4)? as usize,
        })
    }

    fn sections(&self) -> impl Iterator<Item = Section> + use<'_, 'a> {
        (0..u16::MAX as usize).map_while(|i| self.section(i))
    }

    /// A text of a table of texts.
    fn text(&self, table: &Section, at: u64) -> Option<String> {
        let start = table.offset.checked_add(usize::try_from(at).ok()?)?;
        let end = table.offset.checked_add(table.size)?.min(self.bytes.len());
        let bytes = self.bytes.get(start..end)?;
        let bytes = &bytes[..bytes.iter().position(|&b| b == 0)?];
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    /// Entries of a section that are `size` bytes each: where each lies.
    fn entries(&self, section: &Section, size: usize) -> impl Iterator<Item = usize> + use<> {
        let (offset, bytes) = (section.offset, section.size.min(self.bytes.len()));
        (0..(bytes / size).min(MOST_ENTRIES)).filter_map(move |i| offset.checked_add(i * size))
    }

    fn read(&self, elf: &mut Elf) {
        const SYMBOLS: u64 = 11;
        const DYNAMIC: u64 = 6;
        for section in self.sections().filter(|s| s.kind == SYMBOLS || s.kind == DYNAMIC) {
            let Some(texts) = self.section(section.link) else { continue };
            if section.kind == DYNAMIC {
                let needed = self.entries(&section, 16).filter(|&at| self.number(at, 8) == Some(1));
                let names = needed.filter_map(|at| self.text(&texts, self.number(at.checked_add(8)?, 8)?));
                elf.needs.extend(names);
                continue;
            }
            for at in self.entries(&section, 24) {
                let name = self.number(at, 4).and_then(|n| self.text(&texts, n)).filter(|n| !n.is_empty());
                let place = at.checked_add(6).and_then(|at| self.number(at, 2));
                match (name, place) {
                    (Some(name), Some(0)) => elf.wants.push(name),
                    (Some(name), Some(_)) => elf.gives.push(name),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_very_program_is_for_this_machine() {
        let elf = Elf::read(&std::env::current_exe().unwrap()).ok().unwrap();
        assert_eq!(elf.machine, Machine::here());
        assert!(elf.needs.iter().any(|n| n.starts_with("libc.")), "{:?}", elf.needs);
        assert!(elf.wants.iter().any(|n| n == "write"), "it writes");
    }

    /// The header of this very program with its section table right behind it, so that both can be broken.
    fn small() -> Vec<u8> {
        static SMALL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let read = || {
            let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
            let table = u64::from_le_bytes(whole[40..48].try_into().unwrap()) as usize;
            let mut bytes = whole[..64].to_vec();
            bytes[40..48].copy_from_slice(&64u64.to_le_bytes());
            bytes.extend(whole[table..].iter().take(4032));
            bytes
        };
        SMALL.get_or_init(read).clone()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn a_file_with_broken_tables_is_read_as_far_as_it_goes(
            cuts in prop::collection::vec((0usize..4096, any::<u8>()), 0..64), length in 0usize..4096
        ) {
            let mut bytes = small();
            for (at, byte) in cuts {
                if let Some(b) = bytes.get_mut(at) { *b = byte; }
            }
            bytes.truncate(length);
            if let Ok(mut elf) = header(&bytes[..bytes.len().min(64)]) {
                Tables { bytes: &bytes }.read(&mut elf);
            }
        }
    }
}
