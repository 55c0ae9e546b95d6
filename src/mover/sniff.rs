//! The type of a content that streams by: `text/plain` is UTF-8 without control bytes, the rest is
//! told by magic numbers.

/// Bytes kept for magic numbers.
const HEAD: usize = 8192;

pub(super) struct TypeSniffer {
    head: Vec<u8>,
    /// The beginning of a character whose end has not come yet.
    partial: Vec<u8>,
    text: bool,
}

impl TypeSniffer {
    pub(super) fn new() -> Self {
        Self { head: Vec::new(), partial: Vec::new(), text: true }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        if !self.text {
            return;
        }
        let control = |byte: &u8| byte.is_ascii_control() && !b"\t\n\x0c\r\x1b".contains(byte);
        if bytes.iter().any(control) {
            self.text = false;
            return;
        }
        self.partial.extend_from_slice(bytes);
        match std::str::from_utf8(&self.partial) {
            Ok(_) => self.partial.clear(),
            Err(error) if error.error_len().is_none() => {
                self.partial.drain(..error.valid_up_to());
            }
            Err(_) => self.text = false,
        }
    }

    pub(super) fn finish(self) -> String {
        match infer::get(&self.head) {
            Some(known) => known.mime_type().to_owned(),
            None if self.text && self.partial.is_empty() => "text/plain".to_owned(),
            None => "application/octet-stream".to_owned(),
        }
    }
}
