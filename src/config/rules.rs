//! Rules and gates.

use std::sync::Arc;

use super::accounts::Accounts;
use super::checks::Surroundings;
use super::diagnostic::Report;
use super::ends::{self, Ends, Known};
use super::lint;
use super::section::Section;
use super::{checks, conditions, values};
use crate::check;
use crate::policy::{
    Gate, GateTerms, Lossy, PATTERN_MAX, PathPatterns, PolicySource, Rule, Verify, depth_is_whole,
};
use crate::types::BranchIndex;

const WITHIN: [(&str, bool); 2] = [("allow", true), ("deny", false)];

const VERIFY: [(&str, Verify); 2] = [("readback", Verify::Readback), ("stream", Verify::Stream)];

/// Reads `policy`, `rules` and `gates`. What has a mistake is left out, and reported.
pub(super) fn read<'t>(
    root: &Section<'t>,
    known: Known<'_, 't>,
    accounts: &Accounts<'t>,
    seen: &Surroundings<'_, 't>,
    report: &mut Report,
) -> PolicySource {
    let policy = root.section("policy", report);
    let within = policy.as_ref().and_then(|policy| policy.choice("within", &WITHIN, report));
    let observe = policy.as_ref().and_then(|policy| policy.flag("observe", report));
    let rules = root.named("rules", "a rule", report);
    let rules: Vec<_> = rules
        .into_iter()
        .filter_map(|section| Some((rule(&section, known, accounts, report)?, section)))
        .collect();
    let gates = root.named("gates", "a gate", report);
    let gates: Vec<_> = gates
        .into_iter()
        .filter_map(|section| Some((gate(&section, known, accounts, seen, report)?, section)))
        .collect();
    let within_allowed = within.unwrap_or(true);
    if !report.has_errors() {
        let within = policy.as_ref().map(|policy| policy.value_span("within"));
        let policy = lint::Read { within_allowed, within, rules: &rules, gates: &gates, known };
        lint::check(&policy, report);
    }
    PolicySource {
        within_allowed,
        observe: observe.unwrap_or(false),
        rules: rules.into_iter().map(|(rule, _)| rule).collect(),
        gates: gates.into_iter().map(|(gate, _)| gate).collect(),
        branches: known.branches.facts(),
    }
}

fn rule<'t>(
    section: &Section<'t>,
    known: Known<'_, 't>,
    accounts: &Accounts<'t>,
    report: &mut Report,
) -> Option<Rule> {
    let denies = effect(section, report);
    let key = if denies == Some(false) { "allow" } else { "deny" };
    let words = section.texts(key, Some("this is no operation"), report);
    let operations = words.and_then(|words| values::operations(&words, report));
    let who = accounts.who(section, report);
    let paths = match section.has("paths") {
        true => patterns(section, &|text| check_view_pattern(text, known), report),
        false => PathPatterns::new(vec!["/**".to_owned()]).ok(),
    };
    let conditions = conditions::read(section, report);
    let observe = section.flag("observe", report).unwrap_or(false);
    if observe && denies == Some(false) {
        report
            .error(section.span_of("observe"), "an allow rule cannot be observed")
            .label("it denies nothing that could be recorded")
            .hint("policy.observe = true tries the whole policy");
    }
    let reason = section.text("reason", report);
    if denies == Some(true) && !section.has("reason") {
        report
            .error(section.name.span(), format!("{} has no reason", section.path_of("deny")))
            .hint("reason = \"...\" is what `octroi why` tells those it denies");
    }
    if let Some(reason) = &reason
        && reason.get_ref().trim().is_empty()
    {
        let message = format!("{} is empty", section.path_of("reason"));
        report.error(reason.span(), message);
    }
    Some(Rule {
        name: Arc::from(*section.name.get_ref()),
        denies: denies?,
        operations: operations?,
        who: who?,
        paths: paths?,
        conditions: conditions?,
        observe,
        reason: reason.map(|reason| Arc::from(*reason.get_ref())),
    })
}

/// True for deny, false for allow; exactly one must be there.
fn effect(section: &Section<'_>, report: &mut Report) -> Option<bool> {
    let name = section.name.get_ref();
    match (section.has("deny"), section.has("allow")) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) => {
            report
                .error(section.span_of("allow"), format!("rule {name} both denies and allows"))
                .other(section.span_of("deny"), "deny is here")
                .hint("make two rules of it; deny wins over allow");
            None
        }
        (false, false) => {
            report
                .error(section.name.span(), format!("rule {name} neither denies nor allows"))
                .hint("give deny or allow a list of verbs (read, write, add, remove, attrs)");
            None
        }
    }
}

fn gate<'t>(
    section: &Section<'t>,
    known: Known<'_, 't>,
    accounts: &Accounts<'t>,
    seen: &Surroundings<'_, 't>,
    report: &mut Report,
) -> Option<Gate> {
    let ends = ends::read(section, known, report);
    let places = ends.as_ref().map(|ends| places_of(ends, known)).unwrap_or_default();
    let who = accounts.who(section, report);
    let paths = match section.has("paths") {
        true => patterns(section, &|text| check_branch_pattern(text, &places), report),
        false => PathPatterns::new(vec!["**".to_owned()]).ok(),
    };
    let types = content_types(section, report);
    let max_size = section.size("max_size", report);
    let verify = section.choice("verify", &VERIFY, report).unwrap_or(Verify::Readback);
    let checks = checks::read(section, seen, report);
    let lossy = lossy(section, report);
    let Ends { from, to } = ends?;
    Some(Gate {
        name: Arc::from(*section.name.get_ref()),
        from,
        to,
        who: who?,
        paths: paths?,
        terms: Arc::new(GateTerms { types, max_size, verify, lossy, checks }),
    })
}

/// What may be lost by name.
fn lossy(section: &Section<'_>, report: &mut Report) -> Lossy {
    let words = section.texts("lossy", None, report).unwrap_or_default();
    let texts: Vec<&str> = words.iter().map(|word| *word.get_ref()).collect();
    Lossy::new(&texts).unwrap_or_else(|(at, why)| {
        report
            .error(section.item_span("lossy", at), why)
            .hint("acl, times, or xattr:GLOB, such as xattr:user.* or xattr:security.capability");
        Lossy::default()
    })
}

fn content_types(section: &Section<'_>, report: &mut Report) -> Vec<String> {
    let words = section.texts("types", Some("this is no type: no file could pass"), report);
    for word in words.iter().flatten() {
        if check::can_be_found(word.get_ref()) {
            continue;
        }
        let message = format!("`{}` is not a type that content is found to be", word.get_ref());
        let error = report.error(word.span(), message);
        match word.get_ref().split_once('/') {
            Some((_, "csv" | "json" | "tab-separated-values" | "markdown" | "yaml" | "toml")) => {
                error.label("by content this is `text/plain`");
            }
            Some(_) => {}
            None => {
                error.label("a type is FAMILY/FORMAT or FAMILY/*");
            }
        }
        error.hint("types are found by content, such as text/plain, application/pdf or image/*");
    }
    words.into_iter().flatten().map(|word| (*word.get_ref()).to_owned()).collect()
}

/// Compiles `paths`; `check` says what is wrong with a pattern besides its syntax, with a hint.
fn patterns(
    section: &Section<'_>,
    check: &dyn Fn(&str) -> Option<(&'static str, String)>,
    report: &mut Report,
) -> Option<PathPatterns> {
    let words = section.texts("paths", Some("this is no path"), report)?;
    for word in &words {
        let text = *word.get_ref();
        if let Some((why, hint)) = check(text).or_else(|| check_components(text)) {
            let message = format!("pattern `{text}` can never match");
            report.error(word.span(), message).label(why).hint(hint);
        } else if text.len() > PATTERN_MAX {
            report
                .error(word.span(), format!("a pattern of {} bytes", text.len()))
                .label(format!("at most {PATTERN_MAX} bytes"))
                .hint("make several patterns of it");
        } else if let Err(error) = PathPatterns::new(vec![text.to_owned()]) {
            let message = format!("pattern `{text}` is not a glob");
            report.error(word.span(), message).label(error.kind().to_string());
        } else if !depth_is_whole(text) {
            let message = format!("pattern `{text}` has a `**` that is not a whole name");
            let label = "`**` stands between slashes, or at an end of the whole pattern";
            let hint =
                "`*` is for a part of a name; alternatives with `**` are patterns of their own";
            report.error(word.span(), message).label(label).hint(hint);
        }
    }
    let texts = words.iter().map(|word| (*word.get_ref()).to_owned()).collect();
    // What does not compile was reported above.
    PathPatterns::new(texts).ok()
}

/// Patterns of rules are over paths of the view.
fn check_view_pattern(text: &str, known: Known<'_, '_>) -> Option<(&'static str, String)> {
    if text.is_empty() {
        return Some(("it is empty", "\"/**\" is everything in the view".to_owned()));
    }
    if text.starts_with('/') {
        return None;
    }
    let places: Vec<String> =
        known.branches.all().iter().map(|found| found.place.at.to_string()).collect();
    let rooted = format!("/{text}");
    let below = |place: &&String| {
        let rest = rooted.strip_prefix(place.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let hint = match (places.iter().find(below), places.first()) {
        (Some(_), _) => format!("did you mean \"{rooted}\"?"),
        (None, Some(place)) => {
            let place = place.trim_end_matches('/');
            format!("such as \"/**/{text}\", or \"{place}/{text}\" for one branch")
        }
        (None, None) => format!("such as \"/**/{text}\""),
    };
    Some(("a path of the view begins with `/`", hint))
}

/// Patterns of gates are over paths below a branch, which is at one of the places.
fn check_branch_pattern(text: &str, places: &[String]) -> Option<(&'static str, String)> {
    if text.is_empty() {
        return Some(("it is empty", "\"**\" is everything in the branch".to_owned()));
    }
    let below = |place: &String| {
        let rest = text.strip_prefix(place.trim_end_matches('/'));
        rest.filter(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let rest = places.iter().find_map(below).unwrap_or(text).trim_start_matches('/');
    let rest = if rest.is_empty() { "**" } else { rest };
    let why = "a gate's pattern is relative to the branch";
    text.starts_with('/').then(|| (why, format!("did you mean \"{rest}\"?")))
}

/// The places of both ends of a gate.
fn places_of(ends: &Ends, known: Known<'_, '_>) -> Vec<String> {
    let ends = ends.from.iter().chain(ends.to.iter());
    let place =
        |end: &BranchIndex| known.branches.all().iter().find(|found| found.spec.index == *end);
    ends.filter_map(place).map(|found| found.place.at.to_string()).collect()
}

fn check_components(text: &str) -> Option<(&'static str, String)> {
    let odd = text.len() > 1 && text.ends_with('/');
    let empty = text.is_empty() || text.contains("//");
    let dots = text.split('/').any(|name| name == "." || name == "..");
    (odd || empty || dots).then(|| {
        let hint = "PATH itself is `PATH`, all below it is `PATH/**`".to_owned();
        ("paths have no empty name, `.` or `..`, and no `/` at the end", hint)
    })
}
