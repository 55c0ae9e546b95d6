//! The configuration: TOML text to validated values, every mistake with file, line and caret.
