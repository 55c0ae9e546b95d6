//! Mistakes and doubts with their place in the file, drawn as a compiler does.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but hardly does what was meant.
    Warning,
}

/// One thing to say about a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it, a line each.
    pub hints: Vec<String>,
    file: Arc<str>,
    text: Arc<str>,
    /// Where; none for the file as a whole.
    place: Option<Mark>,
    /// Other places that have to do with it.
    others: Vec<Mark>,
}

/// A place and what to write beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    span: Range<usize>,
    label: Option<String>,
}

impl Diagnostic {
    /// About a file that cannot be read at all.
    pub(super) fn about_file(file: &Path, message: String) -> Self {
        Self {
            severity: Severity::Error,
            message: format!("configuration {}: {message}", file.display()),
            hints: Vec::new(),
            file: file.to_string_lossy().into(),
            text: "".into(),
            place: None,
            others: Vec::new(),
        }
    }

    /// Text beside the caret.
    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        if let Some(place) = &mut self.place {
            place.label = Some(label.into());
        }
        self
    }

    /// Another place, with what to write beside it.
    pub(super) fn other(&mut self, span: Range<usize>, label: impl Into<String>) -> &mut Self {
        self.others.push(Mark { span, label: Some(label.into()) });
        self
    }

    /// A line of advice.
    pub(super) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hints.push(hint.into());
        self
    }

    /// The line of the file that it is about, from 1.
    pub fn line(&self) -> Option<usize> {
        let before = self.text.get(..self.place.as_ref()?.span.start)?;
        Some(before.matches('\n').count().saturating_add(1))
    }

    /// Several lines of text without a final newline; with colour for terminals.
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(printable(&self.message));
        let mut group = match &self.place {
            None => Group::with_title(title),
            Some(place) => {
                let mark = |kind: AnnotationKind, mark: &Mark| {
                    let label = mark.label.as_deref().map(printable);
                    kind.span(self.clamp(&mark.span)).label(label)
                };
                let others = self.others.iter().map(|other| mark(AnnotationKind::Context, other));
                title.element(
                    Snippet::source(&*self.text)
                        .path(&*self.file)
                        .annotation(mark(AnnotationKind::Primary, place))
                        .annotations(others),
                )
            }
        };
        for hint in &self.hints {
            group = group.element(Level::HELP.with_name("hint").message(printable(hint)));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }

    /// Within the text and on borders of characters, whatever the parser said.
    fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start);
        start..self.text.ceil_char_boundary(span.end).max(start)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// At least one, in the order of the file.
    pub errors: Vec<Diagnostic>,
    /// What else was noticed.
    pub warnings: Vec<Diagnostic>,
}

impl ConfigErrors {
    /// Errors and then warnings, an empty line between each two.
    pub fn render(&self, colour: bool) -> String {
        let all: Vec<String> =
            self.errors.iter().chain(&self.warnings).map(|one| one.render(colour)).collect();
        all.join("\n\n")
    }
}

impl From<Diagnostic> for ConfigErrors {
    fn from(error: Diagnostic) -> Self {
        Self { errors: vec![error], warnings: Vec::new() }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects what there is to say while a file is read.
#[derive(Debug)]
pub(super) struct Report {
    file: Arc<str>,
    text: Arc<str>,
    found: Vec<Diagnostic>,
    /// Whether paths are followed on the file system.
    looks: bool,
}

impl Report {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        Self {
            file: file.to_string_lossy().into(),
            text: text.into(),
            found: Vec::new(),
            looks: true,
        }
    }

    /// One for a file whose paths are taken as they are written.
    pub(super) fn without_looking(self) -> Self {
        Self { looks: false, ..self }
    }

    /// Whether paths are followed on the file system.
    pub(super) fn looks(&self) -> bool {
        self.looks
    }

    /// Notes a mistake at a place; label, hints and other places can be added to the result.
    pub(super) fn error(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.note(Severity::Error, span, message.into())
    }

    /// Whether a mistake was noted.
    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|one| one.severity == Severity::Error)
    }

    /// Notes a doubt.
    pub(super) fn warning(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.note(Severity::Warning, span, message.into())
    }

    /// An error at a place that is not noted.
    pub(super) fn about(&self, span: Range<usize>, message: String) -> Diagnostic {
        self.diagnostic(Severity::Error, span, message)
    }

    /// The line at which a place begins, from 1.
    pub(super) fn line_of(&self, span: &Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or_default();
        before.matches('\n').count().saturating_add(1)
    }

    fn note(&mut self, severity: Severity, span: Range<usize>, message: String) -> &mut Diagnostic {
        let diagnostic = self.diagnostic(severity, span, message);
        self.found.push_mut(diagnostic)
    }

    fn diagnostic(&self, severity: Severity, span: Range<usize>, message: String) -> Diagnostic {
        Diagnostic {
            severity,
            message,
            hints: Vec::new(),
            file: self.file.clone(),
            text: self.text.clone(),
            place: Some(Mark { span, label: None }),
            others: Vec::new(),
        }
    }

    /// Errors and warnings, each in the order of the file.
    pub(super) fn finish(mut self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        self.found.sort_by_key(|one| one.place.as_ref().map_or(0, |place| place.span.start));
        self.found.into_iter().partition(|one| one.severity == Severity::Error)
    }
}

/// Text from a file may hold anything; a terminal gets no control characters from it.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_unicode().to_string() } else { c.to_string() })
        .collect()
}

/// ` Did you mean ...?`: the candidate nearest to what was written, if any is near.
pub(super) fn nearest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(written, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in characters, one row at a time; neighbours that were swapped cost two.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut left = i.saturating_add(1);
        let mut diagonal = i;
        for (cell, to) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            let replaced = diagonal.saturating_add(usize::from(from != to));
            *cell = replaced.min(above.saturating_add(1)).min(left.saturating_add(1));
            left = *cell;
            diagonal = above;
        }
        if let Some(first) = row.first_mut() {
            *first = i.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or(0)
}
