//! Every key in one table: for hints, for what is refused as not implemented yet, and for the
//! manual, which a test holds against it.

/// A key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Dotted, with `NAME` where the user gives a name.
    pub name: &'static str,
    /// What kind of value.
    pub kind: &'static str,
    /// The default, or `required`, or `none`.
    pub default: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// False: giving it is an error, for now.
    pub implemented: bool,
}

const fn key(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key { name, kind, default, help, implemented: true }
}

const fn later(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key { implemented: false, ..key(name, kind, default, help) }
}

/// Every key, in the order of the manual.
pub const KEYS: &[Key] = &[
    key("view.name", "name", "required", "`[a-z0-9-]{1,32}`"),
    key(
        "view.state",
        "path",
        "/var/lib/octroi/NAME, or XDG state",
        "ledger and lock; never inside the view or a branch",
    ),
    key("policy.within", "allow, deny", "allow", "what no rule speaks of, inside a branch"),
    key(
        "policy.observe",
        "boolean",
        "false",
        "record what rules and `within` would deny, enforce nothing but modes and gates",
    ),
    key("roles.NAME", "principals", "none", "a name for several user:NAME, group:NAME and roles"),
    key("branches.NAME.path", "path", "required", "the backing directory"),
    key(
        "branches.NAME.at",
        "path of the view",
        "/NAME",
        "where it appears; a pool's member has none",
    ),
    key(
        "branches.NAME.mode",
        "rw, ro, gates-only",
        "rw",
        "what may change in it; a pool's member has its pool's",
    ),
    key(
        "branches.NAME.io",
        "checked, passthrough",
        "checked",
        "whether each write is checked, or the kernel writes by itself once the open was allowed",
    ),
    key("branches.NAME.min_free", "size", "64MiB", "space that stays free"),
    key("branches.NAME.exposed", "boolean", "false", "accept a path others can reach"),
    key(
        "pools.NAME.members",
        "branches",
        "required",
        "merged in this order; the first that has a name wins",
    ),
    key("pools.NAME.at", "path of the view", "/NAME", "where it appears"),
    key("pools.NAME.place", "most-free, first, same-directory", "most-free", "where new files go"),
    key("pools.NAME.mode", "rw, ro, gates-only", "rw", "as for branches"),
    key("gates.NAME.from", "branch or pool", "required", "where files come from"),
    key("gates.NAME.to", "branch or pool", "required", "where they go"),
    key("gates.NAME.who", "principals and exceptions", "required", "who may use it"),
    key(
        "gates.NAME.paths",
        "patterns",
        "all",
        "below the branch or pool; source and target name must both match",
    ),
    key("gates.NAME.types", "content types", "all", "found by content, not by name"),
    key("gates.NAME.max_size", "size", "none", "of a file"),
    key(
        "gates.NAME.verify",
        "readback, stream",
        "readback",
        "whether the copy is read again from its disk",
    ),
    later("gates.NAME.hard_links", "refuse", "refuse", "files with several names"),
    key(
        "gates.NAME.lossy",
        "losses",
        "[]",
        "what may be lost where the target cannot keep it: `acl`, `times`, `xattr:GLOB`",
    ),
    key(
        "gates.NAME.checks.run",
        "command",
        "required",
        "the program, an absolute path, and its arguments; exit code 0 lets the file pass",
    ),
    key(
        "gates.NAME.checks.input",
        "stdin, path",
        "stdin",
        "how it gets the content: a pipe, or a file whose path is its last argument",
    ),
    key("gates.NAME.checks.timeout", "duration", "60s", "after which it has failed, at most 1d"),
    key(
        "gates.NAME.checks.memory",
        "size",
        "512MiB",
        "of all its processes together, at least 16MiB; its /tmp has as much again",
    ),
    key(
        "gates.NAME.checks.read",
        "paths",
        "[]",
        "what it may read beside the content and the system's programs and libraries",
    ),
    key(
        "rules.NAME.deny",
        "verbs or operations",
        "this or allow required",
        "what is denied, `rename` and `move` with both sides; deny wins",
    ),
    key("rules.NAME.allow", "verbs or operations", "this or deny required", "what is allowed"),
    key(
        "rules.NAME.who",
        "principals and exceptions",
        "required",
        "about whom; `!user:NAME`, `!group:NAME` and `!ROLE` are excepted",
    ),
    key("rules.NAME.paths", "patterns", "/**", "paths of the view, as users see them"),
    key("rules.NAME.reason", "text", "required for deny", "what the denied are told"),
    key(
        "rules.NAME.when",
        "window or windows",
        "always",
        "when it holds: days, hours and a zone, such as `Mon-Fri 08:00-18:00 Europe/Paris`",
    ),
    key(
        "rules.NAME.max_file_size",
        "size",
        "none",
        "a deny rule speaks of what makes a file larger, an allow rule of what does not",
    ),
    key(
        "rules.NAME.labels",
        "words",
        "any",
        "the object has one of these in its attribute `user.octroi.label`",
    ),
    key("rules.NAME.owner", "caller", "anybody", "the object is the caller's"),
    key(
        "rules.NAME.observe",
        "boolean",
        "false",
        "for deny: record what it would deny, enforce nothing",
    ),
    key("crossings.parallel", "1 to 64", "2", "crossings at a time"),
    key(
        "crossings.rate",
        "size per second",
        "none",
        "what all crossings together read in a second",
    ),
    key("hold.keep", "duration", "1h", "how long a crossing can be undone"),
    key(
        "hold.max",
        "share or size",
        "10%",
        "space in each branch for what can be undone, of its file system or in bytes",
    ),
    key(
        "audit.record",
        "crossings, mutations, everything",
        "mutations",
        "crossings and denials are recorded always",
    ),
    key("audit.readers", "principals", "root, mounting user", "who may read `.audit`"),
    key(
        "audit.keep",
        "duration",
        "none",
        "how long the ledger is kept; segments leave as a whole, so up to an eighth longer",
    ),
    key(
        "audit.max_size",
        "size",
        "none",
        "of the ledger's segments together, at least 8MiB; beyond it the oldest leave",
    ),
    key("expect.as", "user", "required", "who asks: user:NAME"),
    key("expect.groups", "groups", "by the user database", "the groups of who asks"),
    key(
        "expect.do",
        "verb or operation",
        "required",
        "what is asked, as `octroi explain` takes it",
    ),
    key("expect.path", "path of the view", "required", "on what"),
    key("expect.target", "path of the view", "none", "the second path of a move, rename or link"),
    key("expect.directory", "boolean", "false", "the path is that of a directory"),
    key("expect.result", "allow, deny", "required", "what must come of it"),
    key(
        "expect.by",
        "basis",
        "any",
        "what decides: `rule NAME`, `gate NAME`, `mode`, `default`, `no gate`, `label`, `virtual`",
    ),
    key("expect.at", "time", "now", "when it is asked, such as `2026-01-05T09:00:00Z`"),
    key(
        "expect.size",
        "size",
        "none",
        "of the file afterwards, where the operation makes it larger",
    ),
    key("expect.labels", "words", "[]", "the labels that the object has"),
    key("expect.changes_labels", "boolean", "false", "the operation changes the object's labels"),
    key("expect.owner", "user", "who asks", "who owns the object: user:NAME"),
];

/// What a name below a section is, by the table; the section is dotted, with `NAME`, and empty for
/// the root.
pub(super) enum Standing {
    /// A key or section that can be read.
    Known,
    /// It is in the table, but all of it is to come.
    Later,
    /// It is not in the table.
    Unknown,
}

/// See [`Standing`].
pub(super) fn standing(section: &str, name: &str) -> Standing {
    let of_that_name: Vec<&Key> =
        below(section).filter(|(first, _)| *first == name).map(|(_, key)| key).collect();
    match of_that_name.iter().any(|key| key.implemented) {
        true => Standing::Known,
        false if of_that_name.is_empty() => Standing::Unknown,
        false => Standing::Later,
    }
}

/// The names directly below a section that can be given, each once.
pub(super) fn names(section: &str) -> Vec<&'static str> {
    let given = below(section).filter(|(_, key)| key.implemented);
    let mut names: Vec<&str> = given.map(|(first, _)| first).collect();
    names.dedup();
    names
}

fn below(section: &str) -> impl Iterator<Item = (&'static str, &'static Key)> {
    KEYS.iter().filter_map(move |key| {
        let rest = match section {
            "" => key.name,
            _ => key.name.strip_prefix(section)?.strip_prefix('.')?,
        };
        Some((rest.split('.').next().unwrap_or(rest), key))
    })
}
