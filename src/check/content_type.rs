//! Content types of gates: what a file is by its bytes, never by its name.
//!
//! Two sources are combined. The `infer` crate knows formats by magic numbers at their beginning.
//! Whether a file is text is decided here, from all of it: valid UTF-8 without control bytes other
//! than tab, line feed, form feed and carriage return. From both follows one type:
//!
//! | all bytes are text | magic number | type |
//! |---|---|---|
//! | yes | of a format that is text (HTML, XML, a script, PDF, PostScript, RTF) | that format |
//! | yes | any other, or none: a CSV file may well begin with `BM` or `ID3` | `text/plain` |
//! | no | of a format that is text by definition (`text/…`) | unknown |
//! | no | any other | that format |
//! | no | none | unknown |
//!
//! An empty file is text. Unknown fits no list of types, so a gate with types denies it. A magic
//! number proves how a file begins, not that the rest is sound: that is for check commands.

use std::fmt;

/// How much of a file's beginning `infer` gets to see, in bytes: as much as its own
/// `get_from_path` reads.
const HEAD_BYTES: usize = 8192;

/// The type of files that are text and nothing more special.
const TEXT: &str = "text/plain";

/// Formats outside `text/` that may consist of text alone.
const WRITTEN_AS_TEXT: [&str; 3] = ["application/pdf", "application/postscript", "application/rtf"];

/// The first halves of all types that can be found.
const FAMILIES: [&str; 5] = ["application", "audio", "image", "text", "video"];

/// What a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentType {
    /// A media type such as `image/png`.
    Known(&'static str),
    /// Neither text nor a format that is known.
    Unknown,
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known(name) => name,
            Self::Unknown => "unknown",
        })
    }
}

/// Whether a gate with these types (`text/plain`, `image/*`; none: any) takes a file of this type.
pub fn allowed(types: &[String], found: ContentType) -> bool {
    if types.is_empty() {
        return true;
    }
    let ContentType::Known(found) = found else { return false };
    types.iter().any(|wanted| match wanted.strip_suffix("/*") {
        Some(family) => found.split_once('/').is_some_and(|(found, _)| found == family),
        None => wanted == found,
    })
}

/// Whether any content could be found to have this type, which may be `FAMILY/*`.
pub fn can_be_found(wanted: &str) -> bool {
    match wanted.strip_suffix("/*") {
        Some(family) => FAMILIES.contains(&family),
        None => wanted == TEXT || infer::is_mime_supported(wanted),
    }
}

/// Finds the type of content that comes in pieces, in order and without gaps (the zeros of a hole
/// included). Pieces may be of any size; where they are cut makes no difference.
#[derive(Debug, Clone)]
pub struct TypeSniffer {
    head: Vec<u8>,
    is_text: bool,
    /// The beginning of a character whose end has not come yet.
    cut: Cut,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    bytes: [u8; 4],
    length: usize,
}

impl Default for TypeSniffer {
    fn default() -> Self {
        Self::new()
    }
}

impl TypeSniffer {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self { head: Vec::new(), is_text: true, cut: Cut::default() }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let missing = HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend(piece.iter().take(missing));
        if self.is_text {
            self.is_text = !piece.iter().copied().any(is_control) && self.continues_utf8(piece);
        }
    }

    /// What it was.
    pub fn finish(&self) -> ContentType {
        let is_text = self.is_text && self.cut.length == 0;
        let magic = infer::get(&self.head).map(|found| found.mime_type());
        match magic {
            Some(name) if is_text => {
                let written = name.starts_with("text/") || WRITTEN_AS_TEXT.contains(&name);
                ContentType::Known(if written { name } else { TEXT })
            }
            None if is_text => ContentType::Known(TEXT),
            Some(name) if !name.starts_with("text/") => ContentType::Known(name),
            _ => ContentType::Unknown,
        }
    }

    /// Whether what was seen, with this piece, can still be UTF-8.
    fn continues_utf8(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while self.cut.length > 0 {
            let Some((first, after)) = rest.split_first() else { return true };
            rest = after;
            if !self.cut.push(*first) {
                return false;
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                let open = rest.get(error.valid_up_to()..).unwrap_or_default();
                open.iter().all(|byte| self.cut.push(*byte))
            }
        }
    }
}

impl Cut {
    /// Adds a byte; empties itself when the character is whole. False if it cannot become one.
    fn push(&mut self, byte: u8) -> bool {
        let Some(place) = self.bytes.get_mut(self.length) else { return false };
        *place = byte;
        self.length = self.length.saturating_add(1);
        match std::str::from_utf8(self.bytes.get(..self.length).unwrap_or_default()) {
            Ok(_) => {
                self.length = 0;
                true
            }
            Err(error) => error.error_len().is_none(),
        }
    }
}

/// Control bytes of ASCII that do not occur in text.
fn is_control(byte: u8) -> bool {
    matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1f | 0x7f)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sniff<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> ContentType {
        let mut sniffer = TypeSniffer::new();
        pieces.into_iter().for_each(|piece| sniffer.push(piece));
        sniffer.finish()
    }

    #[track_caller]
    fn check(content: &[u8], wanted: &str) {
        assert_eq!(sniff([content]).to_string(), wanted);
        assert_eq!(sniff(content.chunks(1)).to_string(), wanted, "byte by byte");
    }

    #[test]
    fn text_is_utf8_without_control_bytes() {
        check(b"", "text/plain");
        check(b"a,b\r\n1,2\t3\n\x0c", "text/plain");
        check("{\"straße\": \"\u{10ffff} \u{800}\"}".as_bytes(), "text/plain");
        check(b"\xef\xbb\xbfa;b\n", "text/plain");
        for control in [0u8, 1, 7, 8, 0x0b, 0x0e, 0x1b, 0x1f, 0x7f] {
            check(&[b'a', control, b'b'], "unknown");
        }
    }

    #[test]
    fn what_is_not_utf8_is_not_text() {
        let broken: [&[u8]; 8] = [
            b"latin \xe4 one",
            b"ends open \xe2\x82",
            b"\xe2",
            b"overlong \xc0\xaf",
            b"surrogate \xed\xa0\x80",
            b"too large \xf4\x90\x80\x80",
            b"never \xff",
            b"tail alone \x80",
        ];
        broken.iter().for_each(|content| check(content, "unknown"));
        let mut late = vec![b'a'; 100_000];
        late.push(0xff);
        check(&late, "unknown");
    }

    #[test]
    fn formats_are_known_by_magic_number() {
        check(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png");
        let elf = [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 64]].concat();
        check(&elf, "application/x-executable");
        check(b"\x1f\x8b\x08\0\0\0\0\0", "application/gzip");
        check(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf");
        check(b"%PDF-1.7\nall of it is text\n", "application/pdf");
        check(b"<!DOCTYPE html><html></html>", "text/html");
        check(b"#!/bin/sh\necho\n", "text/x-shellscript");
    }

    #[test]
    fn a_short_magic_number_does_not_make_an_image_of_a_table() {
        check(b"BM25,score\nx,1\n", "text/plain");
        check(b"ID3,name\n7,x\n", "text/plain");
        check(b"BM\x36\0\0\0\0\0\0\0", "image/bmp");
    }

    #[test]
    fn bytes_behind_the_beginning_of_a_text_format_are_unknown() {
        check(b"#!/bin/sh\n\x7fELF\0\0", "unknown");
        check(b"<html>\0</html>", "unknown");
    }

    #[test]
    fn types_of_a_gate_match_exactly_or_by_family() {
        let types = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let (png, unknown) = (ContentType::Known("image/png"), ContentType::Unknown);
        assert!(allowed(&[], png) && allowed(&[], unknown));
        assert!(allowed(&types(&["text/plain", "image/png"]), png));
        assert!(allowed(&types(&["image/*"]), png));
        assert!(!allowed(&types(&["image/*", "text/plain"]), unknown));
        assert!(!allowed(&types(&["ima/*", "image/pn", "image", "*", "text/*"]), png));
    }

    #[test]
    fn only_types_that_occur_can_be_found() {
        assert!(["text/plain", "image/png", "image/*"].into_iter().all(can_be_found));
        assert!(
            !["text/csv", "application/json", "pictures/*", "*", ""].into_iter().any(can_be_found)
        );
    }

    proptest! {
        #[test]
        fn the_cut_makes_no_difference(
            start in prop::sample::select(vec!["", "BM", "#!", "<?xml", "%PDF", "ä", "\u{1b}"]),
            text in any::<String>(),
            bytes in prop::collection::vec(any::<u8>(), 0..6),
            size in 1..9usize,
        ) {
            let content = [start.as_bytes(), text.as_bytes(), &bytes].concat();
            let whole = sniff([content.as_slice()]);
            prop_assert_eq!(sniff(content.chunks(size)), whole);
            let plain = std::str::from_utf8(&content)
                .is_ok_and(|text| !text.chars().any(|c| c < ' ' && !"\t\n\r\u{c}".contains(c) || c == '\u{7f}'));
            if whole == ContentType::Known("text/plain") {
                prop_assert!(plain);
            }
            if plain {
                prop_assert_ne!(whole, ContentType::Unknown);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(content in prop::collection::vec(any::<u8>(), 0..600), magic in 0..8usize) {
            let magics: [&[u8]; 8] = [b"", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"RIFF", b"\0\0\0\x18ftyp", b"MZ", b"OggS", b"\x1aE\xdf\xa3"];
            let content = [magics[magic], &content].concat();
            prop_assert_eq!(sniff(content.chunks(7)), sniff([content.as_slice()]));
        }
    }
}
