//! What a gate lets a crossing lose, where the target's file system cannot keep it. The names are those of
//! the configuration and of records.

use std::ffi::OsStr;

use super::patterns::PathPatterns;

/// Begins a name that stands for extended attributes.
const XATTR: &str = "xattr:";

/// See the module. By default nothing may be lost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lossy {
    /// Access control lists; the permissions of the group that they had narrowed stay narrow.
    pub acl: bool,
    /// Times of last read and write, as far as the file system keeps them.
    pub times: bool,
    /// Extended attributes, by patterns over their names.
    xattrs: Option<PathPatterns>,
}

impl Lossy {
    /// Of `acl`, `times` and `xattr:GLOB`; the error says what is wrong with which word.
    pub fn new(words: &[&str]) -> Result<Self, (usize, String)> {
        let mut lossy = Self::default();
        let mut patterns = Vec::new();
        for (at, word) in words.iter().enumerate() {
            match (*word, word.strip_prefix(XATTR)) {
                ("acl", _) => lossy.acl = true,
                ("times", _) => lossy.times = true,
                (_, Some(pattern)) if !pattern.is_empty() => {
                    let checked = PathPatterns::new(vec![pattern.to_owned()]);
                    checked.map_err(|error| (at, error.to_string()))?;
                    patterns.push(pattern.to_owned());
                }
                _ => return Err((at, format!("`{word}` is nothing that can be lost by name"))),
            }
        }
        if !patterns.is_empty() {
            let all = PathPatterns::new(patterns).map_err(|error| (0, error.to_string()))?;
            lossy.xattrs = Some(all);
        }
        Ok(lossy)
    }

    /// Whether an extended attribute may be lost. ACLs are attributes to a file system, and have a word of
    /// their own.
    pub fn allows(&self, key: &OsStr) -> bool {
        match is_acl(key) {
            true => self.acl,
            false => self.xattrs.as_ref().is_some_and(|patterns| patterns.matches(key)),
        }
    }
}

/// Whether an extended attribute is an access control list.
pub fn is_acl(key: &OsStr) -> bool {
    key.as_encoded_bytes().starts_with(b"system.posix_acl_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_may_be_lost() {
        let lossy = Lossy::new(&["times", "xattr:user.*", "xattr:security.capability"]).unwrap();
        assert!(lossy.times && !lossy.acl);
        for (key, allowed) in [
            ("user.note", true),
            ("user.octroi.label", true),
            ("security.capability", true),
            ("security.selinux", false),
            ("trusted.user.x", false),
            ("system.posix_acl_access", false),
        ] {
            assert_eq!(lossy.allows(OsStr::new(key)), allowed, "{key}");
        }
        let all = Lossy::new(&["xattr:*"]).unwrap();
        assert!(all.allows(OsStr::new("trusted.x")), "a star takes dots");
        assert!(!all.allows(OsStr::new("system.posix_acl_default")), "ACLs have their own word");
        assert!(Lossy::new(&["acl"]).unwrap().allows(OsStr::new("system.posix_acl_default")));
        for wrong in [["owner"], ["xattr:"], ["xattr:["], ["acls"]] {
            assert!(Lossy::new(&wrong).is_err(), "{wrong:?}");
        }
    }
}
