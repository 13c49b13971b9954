//! Text that a plugin wrote.

use std::ffi::c_char;

/// The text in a fixed array: up to its NUL or its end, read as UTF-8 with what is none replaced, on one line.
pub(super) fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    line(&bytes)
}

/// Bytes as one line of text: tabs and line ends become spaces, other control characters go.
pub(super) fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let kept = text.chars().filter_map(|c| match c {
        '\t' | '\n' | '\r' => Some(' '),
        c if c.is_control() => None,
        c => Some(c),
    });
    kept.collect::<String>().trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chars(bytes: &[u8]) -> Vec<c_char> {
        bytes.iter().map(|&b| b as c_char).collect()
    }

    #[test]
    fn text_ends_at_its_nul_or_with_its_array() {
        assert_eq!(text(&chars(b"acme\0rest")), "acme");
        assert_eq!(text(&chars(b"acme")), "acme");
        assert_eq!(text(&chars(b"\0")), "");
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn text_is_one_line_of_utf8() {
        assert_eq!(text(&chars(b" a\nb\x07c\x1b[31m ")), "a bc[31m");
        assert_eq!(text(&chars(b"ab\xff\xe6\xa1")), "ab\u{fffd}\u{fffd}");
        assert_eq!(text(&chars("桥".as_bytes())), "桥");
    }
}
