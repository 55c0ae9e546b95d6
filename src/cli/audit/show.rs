//! Lines of the ledger for people.

use std::collections::HashMap;

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use crate::types::shown_command;

use super::super::output::{local_time, plain};
use super::super::tx;

const DENIED: Style = AnsiColor::Red.on_default().bold();
const OBSERVED: Style = AnsiColor::Yellow.on_default();
const CROSSING: Style = AnsiColor::Green.on_default();
const TROUBLE: Style = AnsiColor::Magenta.on_default().bold();
const QUIET: Style = Style::new().dimmed();

/// What a record has in place of a gate where none leads.
const NO_GATE: &str = "none";

/// Shows lines, and remembers the names of users.
pub(super) struct Shown {
    colours: bool,
    users: HashMap<u32, String>,
}

impl Shown {
    pub(super) fn new(colours: bool) -> Self {
        Self { colours, users: HashMap::new() }
    }

    /// A line with its newline; the line itself where it is none of ours.
    pub(super) fn line(&mut self, line: &[u8]) -> String {
        let text = String::from_utf8_lossy(line);
        let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(&text) else {
            return plain(text.trim_end()) + "\n";
        };
        let text = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let uid = fields.get("uid").and_then(Value::as_u64);
        let user = match uid.and_then(|uid| u32::try_from(uid).ok()) {
            None => "-".to_owned(),
            Some(uid) => self.users.entry(uid).or_insert_with(|| tx::user(uid)).clone(),
        };
        let run = fields.get("run").and_then(Value::as_array);
        let run: Vec<&str> = run.into_iter().flatten().filter_map(Value::as_str).collect();
        let what = what(&text, &shown_command(&run));
        let style = style(&text);
        let time = self.painted(QUIET, &local_time(&text("time")));
        let what = self.painted(style, &plain(what.trim_end()));
        format!("{time}  {user:<8}  {what}\n")
    }

    fn painted(&self, style: Style, text: &str) -> String {
        match self.colours && style != Style::new() {
            true => format!("{style}{text}{style:#}"),
            false => text.to_owned(),
        }
    }
}

fn style(text: &dyn Fn(&str) -> String) -> Style {
    match (text("kind").as_str(), text("decision").as_str(), text("step").as_str()) {
        (_, "denied", _) => DENIED,
        (_, "observed", _) => OBSERVED,
        ("crossing", _, "abort" | "reverted" | "dead") | ("gap" | "loss", ..) => TROUBLE,
        ("check", ..) if text("result") == "failed" => TROUBLE,
        ("crossing" | "purge" | "policy", ..) => CROSSING,
        _ => Style::new(),
    }
}

/// What a record says; `command` is that of a check.
fn what(text: &dyn Fn(&str) -> String, command: &str) -> String {
    let after = |separator: &str, name: &str| match text(name) {
        none if none.is_empty() => none,
        some => format!("{separator}{some}"),
    };
    match text("kind").as_str() {
        "operation" => {
            let by = [text("rule"), text("gate")].concat();
            // Without a gate the reason says it.
            let by = if by.is_empty() || by == NO_GATE { "".into() } else { format!(" by {by}") };
            let target = arrow(&text("target"));
            let (op, path) = (text("op"), text("path"));
            let count = text("count");
            let count = if count.is_empty() { count } else { format!(", {count} times") };
            let written = text("written");
            let written =
                if written.is_empty() { written } else { format!(", {written} bytes in all") };
            let reason = after(": ", "reason");
            format!(
                "{op} {path}{target} {}{by} {}{count}{written}{reason}",
                text("decision"),
                text("result")
            )
        }
        "crossing" => {
            let ends = format!("{}{}", text("source"), arrow(&text("target")));
            format!("crossing {} {ends} {} {}", text("step"), text("txid"), text("reason"))
        }
        "check" => {
            let ended = format!("{}{}", after(", ", "reason"), after(": ", "line"));
            let (path, txid) = (text("path"), text("txid"));
            format!("check {} {path} {txid}{ended}, by {command}", text("result"))
        }
        "purge" => format!("purge {} {}", text("txid"), text("reason")),
        "policy" => {
            let by = if text("by_signal") == "true" { ", by SIGHUP" } else { "" };
            format!("policy {} is in force: {}{by}", text("generation"), text("sha256"))
        }
        "version" => format!("{} serves view {}", text("program"), text("view")),
        "gap" => match text("unrecorded").as_str() {
            "" => {
                "gap: the last run did not stop cleanly, changes before may be missing".to_owned()
            }
            count => format!("gap: {count} operations could not be recorded on a full disk"),
        },
        "loss" => format!("a loss is accepted: {}", text("why")),
        "key" => format!("a key begins to sign: {}", text("key")),
        "prune" => format!("prune: {} leave: {}", text("segments"), text("reason")),
        "mount" => format!("{} {}", text("event"), text("mountpoint")),
        "branch" => format!("branch {} is {}", text("branch"), text("id")),
        other => other.to_owned(),
    }
}

fn arrow(target: &str) -> String {
    if target.is_empty() { String::new() } else { format!(" -> {target}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_well_and_foreign_lines_stay() {
        let line = r#"{"seq":1,"time":"2026-11-23T10:00:00Z","kind":"operation","op":"mkdir",
            "decision":"denied","rule":"no","uid":4294967294,"path":"/a\u001b","result":"EACCES",
            "count":3}"#;
        let mut shown = Shown::new(false);
        let text = shown.line(line.as_bytes());
        assert!(text.contains("mkdir /a\\u{1b} denied by no EACCES, 3 times\n"), "{text}");
        assert!(text.contains("4294967294") && !text.contains('\x1b'), "{text}");
        assert_eq!(shown.line(b"not json\x1b\n"), "not json\\u{1b}\n");
        let text = Shown::new(true).line(line.as_bytes());
        assert!(text.contains("\x1b[1m\x1b[31mmkdir /a\\u{1b} denied"), "{text:?}");
        assert!(text.ends_with("\x1b[0m\n"), "{text:?}");
    }

    #[track_caller]
    fn check(fields: &str, wanted: &str, style: Style) {
        let line = format!("{{\"seq\":1,\"time\":\"2026-11-23T10:00:00Z\",{fields}}}");
        let text = Shown::new(false).line(line.as_bytes());
        assert!(text.ends_with(&format!("  {wanted}\n")), "{text}");
        let fields: Value = serde_json::from_str(&line).unwrap();
        let found = super::style(&|name| fields[name].as_str().unwrap_or_default().to_owned());
        assert_eq!(found, style);
    }

    #[test]
    fn what_was_refused_says_why() {
        check(
            r#""kind":"operation","op":"create","decision":"denied","rule":"no","path":"/a",
            "result":"EACCES","count":2,"reason":"not here""#,
            "create /a denied by no EACCES, 2 times: not here",
            DENIED,
        );
        check(
            r#""kind":"operation","op":"move-source","decision":"denied","gate":"none","path":"/a",
            "target":"/b","result":"EACCES","reason":"no gate leads from a to b""#,
            "move-source /a -> /b denied EACCES: no gate leads from a to b",
            DENIED,
        );
        check(
            r#""kind":"check","txid":"01M","gate":"g","run":["/bin/sh","-c","a\n\nb"],"path":"/a",
            "result":"failed","reason":"exit code 1","line":"it has a key""#,
            "check failed /a 01M, exit code 1: it has a key, by /bin/sh -c 'a b'",
            TROUBLE,
        );
        check(
            r#""kind":"check","txid":"01M","gate":"g","run":["/bin/true"],"path":"/a",
            "result":"passed""#,
            "check passed /a 01M, by /bin/true",
            Style::new(),
        );
    }
}
