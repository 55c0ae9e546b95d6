//! Serde for paths of any bytes: text where it is UTF-8, else `{"b64": "..."}`, which the ledger's
//! encoder turns into the pair of fields `NAME` (lossy text) and `NAME_b64`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Text(String),
    Bytes { b64: String },
}

/// Writes a path.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => {
            let b64 = STANDARD.encode(path.as_os_str().as_bytes());
            Wire::Bytes { b64 }.serialize(serializer)
        }
    }
}

/// Reads a path.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    match Wire::deserialize(deserializer)? {
        Wire::Text(text) => Ok(text.into()),
        Wire::Bytes { b64 } => STANDARD
            .decode(b64)
            .map(|bytes| OsString::from_vec(bytes).into())
            .map_err(serde::de::Error::custom),
    }
}
