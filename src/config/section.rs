//! One table of the file: typed access to its keys, each mistake reported where it stands. After a
//! mistake a getter answers as if the key were absent; the report keeps the configuration from
//! being used.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Report, nearest};
use super::keys::{self, Standing};
use super::values;
use crate::branch::SpaceLimit;

/// A text of the file and where it stands.
pub(super) type Word<'t> = Spanned<&'t str>;

/// A table of the file.
#[derive(Debug, Clone)]
pub(super) struct Section<'t> {
    /// As in the table of keys, such as `branches.NAME`; empty for the root.
    pattern: String,
    /// As the user wrote it, such as `branches.inbox`; empty for the root.
    path: String,
    /// Its last name, where it stands.
    pub name: Word<'t>,
    table: &'t DeTable<'t>,
}

impl<'t> Section<'t> {
    /// The whole file.
    pub(super) fn root(table: &'t DeTable<'t>) -> Self {
        let name = Spanned::new(0..0, "");
        Self { pattern: String::new(), path: String::new(), name, table }
    }

    /// A subsection with keys of the table.
    pub(super) fn section(&self, name: &str, report: &mut Report) -> Option<Section<'t>> {
        let (key, value) = self.table.get_key_value(name)?;
        let section = self.below(key, value, name, report)?;
        section.refuse_strangers(report);
        Some(section)
    }

    /// The subsections of a section of names the user gave, such as `branches`, in the order of the
    /// file. Names that are none are reported (`one` says of what, as in "a branch") and left out.
    pub(super) fn named(&self, kind: &str, one: &str, report: &mut Report) -> Vec<Section<'t>> {
        let Some((key, value)) = self.table.get_key_value(kind) else { return Vec::new() };
        let Some(all) = self.below(key, value, kind, report) else { return Vec::new() };
        let mut named: Vec<Section<'t>> = Vec::new();
        for (key, value) in all.table {
            let section = all.below(key, value, "NAME", report);
            let Some(section) = section else { continue };
            if values::check_name(one, &section.name, report) {
                section.refuse_strangers(report);
                named.push(section);
            }
        }
        named.sort_by_key(|section| section.name.span().start);
        named
    }

    /// A section whose keys are names that the user gave, such as `roles`.
    pub(super) fn names_of(&self, kind: &str, report: &mut Report) -> Option<Section<'t>> {
        let (key, value) = self.table.get_key_value(kind)?;
        self.below(key, value, kind, report)
    }

    /// The tables of an array of tables, such as `[[expect]]`, in the order of the file.
    pub(super) fn tables(&self, kind: &str, report: &mut Report) -> Vec<Section<'t>> {
        let Some((key, value)) = self.table.get_key_value(kind) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            report
                .error(value.span(), format!("{} must be tables", self.path_of(kind)))
                .label(format!("this is {}", with_article(value.get_ref())))
                .hint(format!("each begins with [[{kind}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for value in list {
            let Some(section) = self.below(key, value, kind, report) else { continue };
            // Each has the name of all: its own place is where its table stands.
            let name = Spanned::new(value.span(), *section.name.get_ref());
            let section = Section { name, ..section };
            section.refuse_strangers(report);
            sections.push(section);
        }
        sections
    }

    /// Its keys in the order of the file.
    pub(super) fn keys(&self) -> Vec<Word<'t>> {
        let mut keys: Vec<Word<'t>> =
            self.table.keys().map(|key| Spanned::new(key.span(), key.get_ref().as_ref())).collect();
        keys.sort_by_key(|key| key.span().start);
        keys
    }

    fn below(
        &self,
        key: &'t Spanned<std::borrow::Cow<'t, str>>,
        value: &'t Spanned<DeValue<'t>>,
        pattern: &str,
        report: &mut Report,
    ) -> Option<Section<'t>> {
        let name: Word<'t> = Spanned::new(key.span(), key.get_ref().as_ref());
        let path = self.path_of(name.get_ref());
        let Some(table) = value.get_ref().as_table() else {
            report
                .error(value.span(), format!("{path} must be a table"))
                .label(format!("this is {}", with_article(value.get_ref())));
            return None;
        };
        Some(Section { pattern: join(&self.pattern, pattern), path, name, table })
    }

    /// Reports keys that are unknown or still to come.
    pub(super) fn refuse_strangers(&self, report: &mut Report) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            match keys::standing(&self.pattern, name) {
                Standing::Known => {}
                Standing::Later => {
                    let path = self.path_of(name);
                    report.error(key.span(), format!("{path} is not implemented yet"));
                }
                Standing::Unknown => {
                    let known = keys::names(&self.pattern);
                    let path = self.path_of(name);
                    let error = report.error(key.span(), format!("unknown key {path}"));
                    if let Some(near) = nearest(name, known.iter().copied()) {
                        error.label(format!("did you mean `{near}`?"));
                    }
                    error.hint(format!("known here: {}", known.join(", ")));
                }
            }
        }
    }

    /// Reports a required key that is not there.
    pub(super) fn missing(&self, key: &str, report: &mut Report) {
        let path = self.path_of(key);
        let error = report.error(self.name.span(), format!("{path} is missing"));
        let required = keys::KEYS.iter().find(|known| known.name == join(&self.pattern, key));
        if let Some(key) = required {
            error.hint(format!("{path} ({}): {}", key.kind, key.help));
        }
    }

    /// Whether the file gives this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the list of a key holds this word.
    pub(super) fn lists(&self, key: &str, word: &str) -> bool {
        let list = self.table.get(key).and_then(|value| value.get_ref().as_array());
        list.is_some_and(|list| list.iter().any(|one| one.get_ref().as_str() == Some(word)))
    }

    /// Where a key stands; the section's name where it is absent.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get_key_value(key).map_or(self.name.span(), |(key, _)| key.span())
    }

    /// A value of any type.
    pub(super) fn value(&self, key: &str) -> Option<&'t DeValue<'t>> {
        self.table.get(key).map(Spanned::get_ref)
    }

    /// Where the value of a key stands; the section's name where it is absent.
    pub(super) fn value_span(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or(self.name.span(), Spanned::span)
    }

    /// Where the value at a position of a list stands; where the key would, if it is absent.
    pub(super) fn item_span(&self, key: &str, position: usize) -> Range<usize> {
        let list = self.table.get(key).and_then(|value| value.get_ref().as_array());
        list.and_then(|list| list.get(position)).map_or_else(|| self.value_span(key), Spanned::span)
    }

    /// A text.
    pub(super) fn text(&self, key: &str, report: &mut Report) -> Option<Word<'t>> {
        let value = self.table.get(key)?;
        self.as_text(key, value, report)
    }

    /// A text that must be there.
    pub(super) fn required_text(&self, key: &str, report: &mut Report) -> Option<Word<'t>> {
        if !self.has(key) {
            self.missing(key, report);
        }
        self.text(key, report)
    }

    fn as_text(
        &self,
        key: &str,
        value: &'t Spanned<DeValue<'t>>,
        report: &mut Report,
    ) -> Option<Word<'t>> {
        match value.get_ref().as_str() {
            Some(text) => Some(Spanned::new(value.span(), text)),
            None => {
                self.wrong_type(key, "a string", value, report);
                None
            }
        }
    }

    /// A list of texts; an empty list is reported where `nothing` says what it would mean.
    pub(super) fn texts(
        &self,
        key: &str,
        nothing: Option<&str>,
        report: &mut Report,
    ) -> Option<Vec<Word<'t>>> {
        let value = self.table.get(key)?;
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(key, "a list of strings", value, report);
            return None;
        };
        if let Some(nothing) = nothing
            && list.is_empty()
        {
            report.error(value.span(), format!("{} is empty", self.path_of(key))).label(nothing);
            return None;
        }
        let each = format!("{key}[]");
        let words: Vec<_> = list.iter().map(|value| self.as_text(&each, value, report)).collect();
        words.into_iter().collect()
    }

    /// A text or a list of texts.
    pub(super) fn one_or_more(
        &self,
        key: &str,
        nothing: &str,
        report: &mut Report,
    ) -> Option<Vec<Word<'t>>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::String(_) => self.text(key, report).map(|word| vec![word]),
            DeValue::Array(_) => self.texts(key, Some(nothing), report),
            _ => {
                self.wrong_type(key, "a string or a list of strings", value, report);
                None
            }
        }
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str, report: &mut Report) -> Option<bool> {
        let value = self.table.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(key, "true or false", value, report);
        }
        flag
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        choices: &[(&str, T)],
        report: &mut Report,
    ) -> Option<T> {
        let word = self.text(key, report)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| name == word.get_ref()) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let path = self.path_of(key);
        let error = report.error(word.span(), format!("{path} cannot be `{}`", word.get_ref()));
        if let Some(near) = nearest(word.get_ref(), names.iter().copied()) {
            error.label(format!("did you mean `{near}`?"));
        }
        error.hint(format!("one of: {}", names.join(", ")));
        None
    }

    /// A size in bytes: a text with a unit, or a number.
    pub(super) fn size(&self, key: &str, report: &mut Report) -> Option<u64> {
        let value = self.table.get(key)?;
        let size = match value.get_ref() {
            DeValue::String(text) => values::parse_size(text),
            other => bytes_of(other),
        };
        match size {
            Ok(size) => Some(size),
            Err(why) => {
                let path = self.path_of(key);
                report
                    .error(value.span(), format!("{path} is not a size"))
                    .label(format!("expected {why}"))
                    .hint("such as \"64MiB\", \"2GiB\", \"512KiB\" or a number of bytes");
                None
            }
        }
    }

    /// A size that is not too small.
    pub(super) fn size_of_at_least(
        &self,
        key: &str,
        least: u64,
        report: &mut Report,
    ) -> Option<u64> {
        let size = self.size(key, report)?;
        if size >= least {
            return Some(size);
        }
        let path = self.path_of(key);
        let span = self.table.get(key).map_or(0..0, Spanned::span);
        report
            .error(span, format!("{path} is too small"))
            .label(format!("at least {} MiB", least >> 20));
        None
    }

    /// A size for each second, of at least one byte.
    pub(super) fn rate(&self, key: &str, report: &mut Report) -> Option<u64> {
        let value = self.table.get(key)?;
        let rate = match value.get_ref() {
            DeValue::String(text) => values::parse_size(text.strip_suffix("/s").unwrap_or(text)),
            other => bytes_of(other),
        };
        let why = match rate {
            Ok(1..) => return rate.ok(),
            Ok(0) => "nothing would ever arrive",
            Err(why) => why,
        };
        let path = self.path_of(key);
        let error = report.error(value.span(), format!("{path} is not a size per second"));
        match rate {
            Ok(_) => error.label(why),
            Err(_) => error.label(format!("expected {why}")),
        };
        error.hint("such as \"50MiB/s\" or \"50MiB\"; without it there is no limit");
        None
    }

    /// A whole number.
    pub(super) fn number(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        report: &mut Report,
    ) -> Option<u64> {
        let value = self.table.get(key)?;
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(written) = value.get_ref() else {
            self.wrong_type(key, &wanted, value, report);
            return None;
        };
        let number = u64::from_str_radix(written.as_str(), written.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            report.error(value.span(), format!("{} must be {wanted}", self.path_of(key)));
        }
        number
    }

    /// A span of time.
    pub(super) fn duration(&self, key: &str, report: &mut Report) -> Option<Duration> {
        let word = self.text(key, report)?;
        let duration = values::parse_duration(word.get_ref());
        if duration.is_none() {
            report
                .error(word.span(), format!("{} is not a duration", self.path_of(key)))
                .label("expected a whole number and a unit")
                .hint("such as \"90s\", \"15m\", \"1h\" or \"7d\"");
        }
        duration
    }

    /// A share of a file system or a size.
    pub(super) fn share(&self, key: &str, report: &mut Report) -> Option<SpaceLimit> {
        let value = self.table.get(key)?;
        let share = match value.get_ref() {
            DeValue::String(text) => values::parse_share(text),
            other => bytes_of(other).ok().map(SpaceLimit::Bytes),
        };
        if share.is_none() {
            report
                .error(value.span(), format!("{} is neither a share nor a size", self.path_of(key)))
                .label("expected 0% to 100%, or a whole number and a unit")
                .hint("such as \"10%\" or \"50GiB\"");
        }
        share
    }

    fn wrong_type(
        &self,
        key: &str,
        wanted: &str,
        value: &Spanned<DeValue<'_>>,
        report: &mut Report,
    ) {
        report
            .error(value.span(), format!("{} must be {wanted}", self.path_of(key)))
            .label(format!("this is {}", with_article(value.get_ref())))
            .hint(fixed(key, wanted, value.get_ref()));
    }

    /// The dotted path of a key of this section, as the user would write it.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

/// A number of bytes; else what was expected.
fn bytes_of(value: &DeValue<'_>) -> Result<u64, &'static str> {
    let DeValue::Integer(number) = value else { return Err("a size") };
    u64::from_str_radix(number.as_str(), number.radix())
        .map_err(|_| "a number of bytes from 0 to 18446744073709551615")
}

/// A value of another type as the type that is wanted, as far as it can be told.
fn fixed(key: &str, wanted: &str, value: &DeValue<'_>) -> String {
    let assigned = |value: &str| match key.ends_with("[]") {
        true => value.to_owned(),
        false => format!("{key} = {value}"),
    };
    let quoted = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(format!("{text:?}")),
        DeValue::Integer(number) => Some(format!("\"{}\"", number.as_str())),
        DeValue::Float(number) => Some(format!("\"{}\"", number.as_str())),
        DeValue::Boolean(flag) => Some(format!("\"{flag}\"")),
        _ => None,
    };
    let one = quoted(value);
    match (value, one) {
        (_, Some(one)) if wanted.starts_with("a list") => assigned(&format!("[{one}]")),
        (DeValue::String(text), _) if matches!(&**text, "true" | "false") => assigned(text),
        (DeValue::String(text), _) if text.parse::<u64>().is_ok() => assigned(text),
        (DeValue::String(_), _) => format!("{wanted} is written without quotes"),
        (_, Some(one)) if wanted.starts_with("a string") => assigned(&one),
        (DeValue::Array(list), _) if wanted.starts_with("a string") => {
            match list.first().and_then(|first| quoted(first.get_ref())) {
                Some(first) if list.len() == 1 => assigned(&first),
                _ => "strings are quoted: \"...\"".to_owned(),
            }
        }
        _ => format!("expected {wanted}"),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn with_article(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {name}")
}
