//! Who: users, groups and roles, resolved to ids.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::diagnostic::{Report, nearest};
use super::section::{Section, Word};
use crate::error::{Errno, errno_name};
use crate::policy::Principal;
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
            let list = words
                .into_iter()
                .filter_map(|word| accounts.member(word, &known, report))
                .collect();
            members.insert(name.get_ref(), list);
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
        let known: Vec<&str> = self.roles.keys().copied().collect();
        let mut principals = Vec::new();
        for word in words {
            match self.member(word, &known, report) {
                Some(Member::Principal(principal)) => add(&mut principals, principal),
                Some(Member::Role(role)) => {
                    let of_role = self.roles.get(role.get_ref()).into_iter().flatten();
                    of_role.for_each(|principal| add(&mut principals, *principal));
                }
                None => {}
            }
        }
        Some(principals)
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
        if let Some(near) = nearest(text, roles.iter().copied()) {
            error.label(format!("did you mean `{near}`?"));
        }
        error.hint("user:NAME, group:NAME, the name of a role in [roles], or *");
        None
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
