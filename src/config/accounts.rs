//! Who: users, groups and roles, resolved to ids.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::diagnostic::{Report, nearest};
use super::section::{Section, Word};
use crate::error::{Errno, errno_name};
use crate::policy::{Principal, Who};
use crate::sys::users;

/// A name to look up in the user database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account<'a> {
    /// Of a user.
    User(&'a str),
    /// Of a group.
    Group(&'a str),
}

/// Looks an account up in the system's user database.
pub(super) fn system(account: Account<'_>) -> Result<Option<u32>, Errno> {
    match account {
        Account::User(name) => users::uid_of(name),
        Account::Group(name) => users::gid_of(name),
    }
}

/// What a word in a list of principals stands for, its roles not followed yet.
#[derive(Debug, Clone)]
enum Member<'t> {
    Principal(Principal),
    Role(Word<'t>),
}

/// The roles of the file, and the user database.
pub(super) struct Accounts<'t> {
    resolve: &'t dyn Fn(Account<'_>) -> Result<Option<u32>, Errno>,
    roles: HashMap<&'t str, Vec<Principal>>,
}

impl<'t> Accounts<'t> {
    /// Reads `roles`. Roles may name roles in any order; one that contains itself is reported.
    pub(super) fn new(
        root: &Section<'t>,
        resolve: &'t dyn Fn(Account<'_>) -> Result<Option<u32>, Errno>,
        report: &mut Report,
    ) -> Self {
        let mut accounts = Self { resolve, roles: HashMap::new() };
        let Some(section) = root.names_of("roles", report) else { return accounts };
        let names = section.keys();
        let known: Vec<&str> = names.iter().map(|name| *name.get_ref()).collect();
        let mut members: HashMap<&str, Vec<Member<'t>>> = HashMap::new();
        for name in &names {
            super::values::check_name("a role", name, report);
            let words = section.texts(name.get_ref(), None, report).unwrap_or_default();
            let list = words.into_iter().filter_map(|word| {
                let what = "a role says who it holds";
                accounts.no_exception(&word, what, report)?;
                accounts.member(word, &known, report)
            });
            members.insert(name.get_ref(), list.collect());
        }
        for name in &known {
            accounts.roles.insert(name, follow(name, &members, report));
        }
        accounts
    }

    /// A list of principals with roles followed. `None` if it is absent or a mistake was reported.
    pub(super) fn list(
        &self,
        section: &Section<'t>,
        key: &str,
        report: &mut Report,
    ) -> Option<Vec<Principal>> {
        let words = section.texts(key, Some("this is nobody"), report)?;
        let mut principals = Vec::new();
        for word in words {
            if self.no_exception(&word, "this list says who may", report).is_some() {
                self.add_to(&mut principals, word, report);
            }
        }
        Some(principals)
    }

    /// `who` of a rule or gate: principals, and with `!` before them those that are excepted. `None`
    /// after a mistake was reported.
    pub(super) fn who(&self, section: &Section<'t>, report: &mut Report) -> Option<Who> {
        if !section.has("who") {
            section.missing("who", report);
        }
        let words = section.texts("who", Some("this is nobody"), report)?;
        let mut who = Who::default();
        let all_excepted = words.iter().all(|word| word.get_ref().starts_with('!'));
        if all_excepted && let (Some(first), Some(last)) = (words.first(), words.last()) {
            let span = first.span().start..last.span().end;
            report
                .error(span, format!("{} excepts, but holds nobody", section.path_of("who")))
                .hint("begin with \"*\" for everybody but these");
        }
        for word in words {
            match word.get_ref().strip_prefix('!') {
                None => self.add_to(&mut who.included, word, report),
                Some(name) => {
                    let word = Word::new(word.span(), name);
                    self.add_to(&mut who.excepted, word, report);
                }
            }
        }
        Some(who)
    }

    /// A user's id, from `user:NAME`; reported if it is none.
    pub(super) fn user(&self, word: &Word<'t>, report: &mut Report) -> Option<u32> {
        let Some(name) = word.get_ref().strip_prefix("user:") else {
            report
                .error(word.span(), format!("`{}` is not a user", word.get_ref()))
                .hint("user:NAME, or user:NUMBER for one that the user database does not have");
            return None;
        };
        self.id(word, "user", name, Account::User(name), report)
    }

    /// A group's id, from `group:NAME`; reported if it is none.
    pub(super) fn group(&self, word: &Word<'t>, report: &mut Report) -> Option<u32> {
        let Some(name) = word.get_ref().strip_prefix("group:") else {
            report
                .error(word.span(), format!("`{}` is not a group", word.get_ref()))
                .hint("group:NAME, or group:NUMBER for one that the user database does not have");
            return None;
        };
        self.id(word, "group", name, Account::Group(name), report)
    }

    /// Adds what a word stands for, its roles followed.
    fn add_to(&self, principals: &mut Vec<Principal>, word: Word<'t>, report: &mut Report) {
        let known: Vec<&str> = self.roles.keys().copied().collect();
        match self.member(word, &known, report) {
            Some(Member::Principal(principal)) => add(principals, principal),
            Some(Member::Role(role)) => {
                let of_role = self.roles.get(role.get_ref()).into_iter().flatten();
                of_role.for_each(|principal| add(principals, *principal));
            }
            None => {}
        }
    }

    /// Reports an exception where there can be none.
    fn no_exception(&self, word: &Word<'_>, what: &str, report: &mut Report) -> Option<()> {
        if !word.get_ref().starts_with('!') {
            return Some(());
        }
        report
            .error(word.span(), format!("`{}` cannot be excepted here", word.get_ref()))
            .label(what)
            .hint("exceptions belong into `who` of a rule or gate: who = [\"*\", \"!user:NAME\"]");
        None
    }

    fn member(&self, word: Word<'t>, roles: &[&str], report: &mut Report) -> Option<Member<'t>> {
        let text = *word.get_ref();
        if text == "*" {
            return Some(Member::Principal(Principal::Anyone));
        }
        if let Some(name) = text.strip_prefix("user:") {
            let id = self.id(&word, "user", name, Account::User(name), report)?;
            return Some(Member::Principal(Principal::User(id)));
        }
        if let Some(name) = text.strip_prefix("group:") {
            let id = self.id(&word, "group", name, Account::Group(name), report)?;
            return Some(Member::Principal(Principal::Group(id)));
        }
        if roles.contains(&text) {
            return Some(Member::Role(word));
        }
        let error = report.error(word.span(), format!("unknown role `{text}`"));
        let near = nearest(text, roles.iter().copied()).map(str::to_owned);
        if let Some(near) = self.account_meant(text).or(near) {
            error.label(format!("did you mean `{near}`?"));
        }
        error.hint("user:NAME, group:NAME, the name of a role in [roles], or *");
        None
    }

    /// The user or group that is meant by a word that is none: its prefix is missing, or written otherwise.
    fn account_meant(&self, text: &str) -> Option<String> {
        let (kind, name) = match text.split_once(':') {
            Some((kind, name)) => (Some(kind.to_ascii_lowercase()), name.trim()),
            None => (None, text),
        };
        if let Some(kind @ ("user" | "group")) = kind.as_deref() {
            return Some(format!("{kind}:{name}"));
        }
        let known = |account| matches!((self.resolve)(account), Ok(Some(_)));
        match kind {
            Some(_) => None,
            None if known(Account::User(name)) => Some(format!("user:{name}")),
            None if known(Account::Group(name)) => Some(format!("group:{name}")),
            None => None,
        }
    }

    /// The id of a name; a number that no account has as its name is itself.
    fn id(
        &self,
        word: &Word<'_>,
        kind: &str,
        name: &str,
        account: Account<'_>,
        report: &mut Report,
    ) -> Option<u32> {
        match (self.resolve)(account) {
            Ok(Some(id)) => return Some(id),
            Ok(None) => {}
            Err(errno) => {
                let why = errno_name(errno);
                report.error(word.span(), format!("cannot look up {kind} `{name}`: {why}"));
                return None;
            }
        }
        let number = name.parse().ok().filter(|_| name.bytes().all(|b| b.is_ascii_digit()));
        match number {
            // -1 means "no change" to the kernel and is nobody's.
            Some(number) if number != u32::MAX => Some(number),
            _ => {
                report
                    .error(word.span(), format!("no {kind} is called `{name}`"))
                    .hint(format!("`getent {} {name}` finds nothing", database(kind)));
                None
            }
        }
    }
}

fn database(kind: &str) -> &'static str {
    if kind == "user" { "passwd" } else { "group" }
}

fn add(principals: &mut Vec<Principal>, principal: Principal) {
    if !principals.contains(&principal) {
        principals.push(principal);
    }
}

/// The principals of a role and of all roles in it. A circle is reported once, by the first of its
/// roles in the alphabet.
fn follow<'t>(
    start: &'t str,
    members: &HashMap<&'t str, Vec<Member<'t>>>,
    report: &mut Report,
) -> Vec<Principal> {
    let mut principals = Vec::new();
    let mut came_from: HashMap<&str, &str> = HashMap::new();
    let mut waiting = vec![start];
    while let Some(role) = waiting.pop() {
        for member in members.get(role).into_iter().flatten() {
            match member {
                Member::Principal(principal) => add(&mut principals, *principal),
                Member::Role(inner) if *inner.get_ref() == start => {
                    let mut circle = vec![start];
                    let back = std::iter::successors(Some(role), |at| came_from.get(at).copied());
                    circle.extend(back.take_while(|at| *at != start));
                    circle.push(start);
                    circle.reverse();
                    if circle.iter().all(|role| start <= *role) {
                        report
                            .error(inner.span(), format!("role `{start}` contains itself"))
                            .label(circle.join(" -> "));
                    }
                }
                Member::Role(inner) => {
                    if let Entry::Vacant(vacant) = came_from.entry(inner.get_ref()) {
                        vacant.insert(role);
                        waiting.push(inner.get_ref());
                    }
                }
            }
        }
    }
    principals
}
