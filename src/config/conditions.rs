//! What a rule asks besides operation, caller and path.

use super::diagnostic::{Report, nearest};
use super::section::{Section, Word};
use crate::policy::{Conditions, Window, WindowMistake};

/// `owner`: the object is the caller's.
const OWNER: &str = "caller";

const WHEN_HINT: &str = "such as \"Mon-Fri 08:00-18:00 Europe/Paris\": days, hours, and a zone";

/// Reads `when`, `max_file_size`, `labels` and `owner`. `None` after a mistake was reported.
pub(super) fn read(section: &Section<'_>, report: &mut Report) -> Option<Conditions> {
    let windows = match section.has("when") {
        true => windows(section, report),
        false => Some(Vec::new()),
    };
    let max_file_size = section.size("max_file_size", report);
    let labels = match section.has("labels") {
        true => labels(section, Some("the object has none of these, whatever it has"), report),
        false => Some(Vec::new()),
    };
    let owner = owner(section, report);
    Some(Conditions {
        when: windows?,
        max_file_size,
        labels: labels?,
        owner_is_caller: owner.is_some(),
    })
}

/// `owner`, which compares with the caller and names nobody.
fn owner(section: &Section<'_>, report: &mut Report) -> Option<()> {
    let word = section.text("owner", report)?;
    let text = *word.get_ref();
    if text == OWNER {
        return Some(());
    }
    let error =
        report.error(word.span(), format!("{} cannot be `{text}`", section.path_of("owner")));
    if nearest(text, [OWNER]).is_some() {
        error.label(format!("did you mean `{OWNER}`?"));
    }
    error.hint(
        "owner = \"caller\": the object belongs to whoever asks; for whom the rule is, says `who`",
    );
    None
}

fn windows(section: &Section<'_>, report: &mut Report) -> Option<Vec<Window>> {
    let words = section.one_or_more("when", "this is never", report)?;
    let windows: Vec<_> = words.iter().map(|word| window(section, word, report)).collect();
    windows.into_iter().collect()
}

fn window(section: &Section<'_>, word: &Word<'_>, report: &mut Report) -> Option<Window> {
    let mistake = match Window::parse(word.get_ref()) {
        Ok(window) => return Some(window),
        Err(mistake) => mistake,
    };
    let key = section.path_of("when");
    if mistake == WindowMistake::Empty {
        report
            .error(word.span(), format!("{key} never opens"))
            .label("it ends when it begins")
            .hint("the whole day is \"00:00-24:00\", or no hours at all");
        return None;
    }
    let error = report.error(word.span(), format!("{key} is not a window of time"));
    error.label(mistake.to_string());
    match &mistake {
        WindowMistake::Zone(name) => match near_zone(name) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("UTC, or a zone of the IANA database such as Europe/Paris"),
        },
        _ => error.hint(WHEN_HINT),
    };
    None
}

fn near_zone(name: &str) -> Option<String> {
    let known: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
    nearest(name, known.iter().map(String::as_str)).map(str::to_owned)
}

/// `labels`: words as they stand in the attribute, which separates them by commas or blanks.
pub(super) fn labels(
    section: &Section<'_>,
    nothing: Option<&str>,
    report: &mut Report,
) -> Option<Vec<String>> {
    let words = section.texts("labels", nothing, report)?;
    let mut good = true;
    for word in &words {
        let text = *word.get_ref();
        if text.is_empty() || text.contains(|c: char| c == ',' || c.is_whitespace()) {
            report
                .error(word.span(), format!("`{text}` cannot be a label"))
                .hint("a label is one word without comma or blank; a list can hold several");
            good = false;
        }
    }
    good.then(|| words.iter().map(|word| (*word.get_ref()).to_owned()).collect())
}
