//! Random policies, and requests that their rules speak of often enough.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::super::*;
use super::glob::written_out;
use super::plain::Question;

/// SplitMix64: the same numbers from the same seed, on every machine.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True so many times of a hundred.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn some<T: Clone>(&mut self, all: &[T], most: usize) -> Vec<T> {
        (0..1 + self.below(most)).map(|_| self.of(all)).collect()
    }
}

const PLACES: [&str; 18] = [
    "/inbox",
    "/inbox",
    "/review",
    "/archive",
    "/lab/scratch",
    "/lab/merged",
    "/lab/merged",
    "/store",
    "/store",
    "/lab",
    "/*",
    "/**",
    "/{inbox,store}",
    "/{inbox/*,lab/*}",
    "/{review,lab/{scratch,merged}}",
    "/[il]*",
    "/lab/[!m]*",
    "",
];
const PARTS: [&str; 21] = [
    "*",
    "*",
    "**",
    "**",
    "a",
    "b",
    "b.csv",
    "c.sh",
    "*.csv",
    "?",
    "[a-c]",
    "[!ab]*",
    "[a-cx]?*",
    "{a,b}",
    "{**/a,b}",
    "{a,{b,c}.csv}",
    "{*.csv,c*}",
    "\\*",
    "b\\{x\\}",
    "ä?",
    "b?csv",
];
pub const NAMES: [&[u8]; 16] = [
    b"a",
    b"a",
    b"b",
    b"b",
    b"b.csv",
    b"c.sh",
    b"c.csv",
    b"a.csv",
    b"*",
    b"b{x}",
    b"\xff",
    b"b\xfe.csv",
    "äx".as_bytes(),
    b"\x01",
    b"[a-c]",
    b"B",
];
const WINDOWS: [&str; 14] = [
    "Mon-Fri 08:00-18:00 Europe/Paris",
    "Mon-Fri 08:00-18:00 America/New_York",
    "22:00-06:00 UTC",
    "Sun 02:00-03:00 Europe/Paris",
    "02:30-02:45 Europe/Paris",
    "01:15-02:15 America/New_York",
    "Sat,Sun UTC",
    "Fri-Mon 18:30-24:00 Asia/Kolkata",
    "Sat 23:30-02:30 Europe/Paris",
    "Sat 22:00-01:30 America/New_York",
    "Sun-Tue 00:00-12:00 Australia/Lord_Howe",
    "sat-sun America/New_York",
    "12:00-00:00 Europe/Paris",
    "Wed 10:00-09:59 UTC",
];
/// Seconds at which clocks change in 2026: Paris in spring and autumn, New York, Lord Howe.
const CHANGES: [i64; 6] =
    [1_774_746_000, 1_792_890_000, 1_772_953_200, 1_793_512_800, 1_775_314_800, 1_791_041_400];
const LABELS: [&str; 3] = ["pii", "raw", "done"];
const SIZES: [u64; 5] = [0, 99, 100, 101, 5000];
const UIDS: [u32; 5] = [0, 1, 2, 3, 4];
const GROUPS: [u32; 6] = [0, 1, 10, 11, 12, 13];

/// A policy of 1 to 40 rules and up to 6 gates.
pub fn policy(random: &mut Random) -> PolicySource {
    let most = random.of(&[3, 12, 12, 40, 40]);
    let count = 1 + random.below(most);
    let crowded = count > 12;
    let rules = (0..count).map(|number| any_rule(random, number, crowded)).collect();
    let within = random.percent(55);
    let mut source = lab(within, rules, vec![]);
    source.observe = random.percent(12);
    let modes = [
        BranchMode::Rw,
        BranchMode::Rw,
        BranchMode::Rw,
        BranchMode::Rw,
        BranchMode::Rw,
        BranchMode::GatesOnly,
        BranchMode::Ro,
    ];
    for at in 0..source.branches.len() {
        let with = source.branches[at].pool.is_some() && at % 2 == 1;
        source.branches[at].mode =
            if with { source.branches[at - 1].mode } else { random.of(&modes) };
    }
    if random.percent(20) {
        source.branches[0].at = ViewPath::root();
    }
    source.gates = (0..random.below(7)).map(|number| any_gate(random, number)).collect();
    source
}

fn principal(random: &mut Random) -> Principal {
    match random.below(10) {
        0..2 => Principal::Anyone,
        2..5 => Principal::User(random.of(&UIDS)),
        _ => Principal::Group(random.of(&GROUPS)),
    }
}

fn who(random: &mut Random, broad: bool) -> Who {
    let anyone = random.percent(if broad { 60 } else { 20 });
    let mut who =
        Who { included: if anyone { vec![Principal::Anyone] } else { vec![] }, excepted: vec![] };
    if !anyone {
        who.included = (0..1 + random.below(2)).map(|_| principal(random)).collect();
    }
    if random.percent(40) {
        let narrow = |random: &mut Random| match random.below(2) {
            0 => Principal::User(random.of(&UIDS)),
            _ => Principal::Group(random.of(&GROUPS)),
        };
        who.excepted = (0..1 + random.below(2)).map(|_| narrow(random)).collect();
    }
    who
}

fn pattern(random: &mut Random) -> String {
    if random.percent(5) {
        return random
            .of(&["/{inbox/**,lab/{scratch/**,merged/*}}", "/{**/b.csv,store/**}"])
            .into();
    }
    let mut text = random.of(&PLACES).to_owned();
    for _ in 0..random.below(3) {
        text = text + "/" + random.of(&PARTS);
    }
    if text.is_empty() || random.percent(40) {
        text += "/**";
    }
    text
}

fn any_rule(random: &mut Random, number: usize, crowded: bool) -> Rule {
    let denies = random.percent(if crowded { 40 } else { 50 });
    let operations = if random.percent(50) {
        let verbs = [Verb::Read, Verb::Write, Verb::Add, Verb::Remove, Verb::Attrs];
        of_verbs(&random.some(&verbs, if denies { 2 } else { 5 }))
    } else {
        random.some(&Operation::ALL, 8)
    };
    let patterns = (0..1 + random.below(3)).map(|_| pattern(random)).collect();
    let mut conditions = Conditions::default();
    if random.percent(25) {
        let windows = random.some(&WINDOWS, 2);
        conditions.when = windows.iter().map(|text| Window::parse(text).unwrap()).collect();
    }
    conditions.max_file_size = random.percent(20).then(|| random.of(&SIZES));
    if random.percent(15) {
        conditions.labels = random.some(&LABELS, 2).iter().map(|label| (*label).into()).collect();
    }
    conditions.owner_is_caller = random.percent(15);
    Rule {
        name: format!("r{number}").into(),
        denies,
        operations,
        who: who(random, !denies),
        paths: PathPatterns::new(patterns).expect("patterns that compile"),
        conditions,
        observe: denies && random.percent(15),
        reason: denies.then(|| "because".into()),
    }
}

fn any_gate(random: &mut Random, number: usize) -> Gate {
    let ends: [&[u16]; 9] = [&[0], &[0], &[1], &[2], &[3], &[4, 5], &[6, 7], &[4, 5], &[6, 7]];
    let members: [&[u16]; 4] = [&[4], &[5], &[6], &[7]];
    let from = if random.percent(25) { random.of(&members) } else { random.of(&ends) };
    let to = random.of(&ends);
    let texts = match random.below(10) {
        0..3 => vec!["**".to_owned()],
        _ => (0..1 + random.below(3)).map(|_| relative(random)).collect(),
    };
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut gate = gate_between(&format!("g{number}"), from, to, Principal::Anyone, &texts);
    gate.who = who(random, true);
    gate
}

fn relative(random: &mut Random) -> String {
    let count = 1 + random.below(2);
    (0..count).map(|_| random.of(&PARTS)).collect::<Vec<_>>().join("/")
}

/// A path that a pattern matches, or nearly.
fn example(random: &mut Random, pattern: &str) -> Vec<u8> {
    let pattern = random.of(&written_out(pattern.as_bytes()));
    let mut path = Vec::new();
    for part in pattern.split(|byte| *byte == b'/') {
        let mut name = Vec::new();
        let mut at = 0;
        while part != b"**" && at < part.len() {
            match part[at] {
                b'*' => name.extend(random.of(&[&b""[..], b"", b"a", b".csv", b"\xff"])),
                b'?' => name.push(random.of(b"abz\xff.")),
                b'[' => {
                    at += part[at..].iter().position(|end| *end == b']').expect("an end");
                    name.push(random.of(b"abcxilz"));
                }
                b'\\' => {
                    at += 1;
                    name.push(part[at]);
                }
                byte => name.push(byte),
            }
            at += 1;
        }
        if !name.is_empty() {
            path.push(name);
        } else if part == b"**" {
            path.extend((0..random.below(3)).map(|_| random.of(&NAMES).to_vec()));
        } else if !part.is_empty() {
            path.push(random.of(&NAMES).to_vec());
        }
    }
    if random.percent(12) {
        path.truncate(random.below(3));
    }
    if random.percent(15) {
        path.push(random.of(&NAMES).to_vec());
    }
    path.join(&b'/')
}

/// What a policy is asked about: the same callers and paths again and again, as a mount asks.
pub struct World {
    callers: Vec<Subject>,
    paths: Vec<(ViewPath, Vec<BranchIndex>)>,
}

impl World {
    pub fn new(random: &mut Random, source: &PolicySource) -> Self {
        let caller = |random: &mut Random| Subject {
            uid: random.of(&UIDS),
            gid: random.of(&GROUPS),
            groups: (0..random.below(4)).map(|_| random.of(&GROUPS)).collect(),
        };
        let callers = (0..8).map(|_| caller(random)).collect();
        let paths = (0..60).map(|number| place(random, source, number)).collect();
        Self { callers, paths }
    }

    pub fn paths(&self) -> impl Iterator<Item = &ViewPath> {
        self.paths.iter().map(|(path, _)| path)
    }

    fn at(&self, random: &mut Random, among: Option<&[BranchIndex]>) -> Object<'_> {
        let mut at = random.below(self.paths.len());
        for _ in 0..40 {
            let fits = |ends: &[BranchIndex]| self.paths[at].1.iter().any(|of| ends.contains(of));
            if among.is_none_or(fits) {
                break;
            }
            at = (at + 1) % self.paths.len();
        }
        let (path, members) = &self.paths[at];
        let branch = if members.is_empty() { None } else { Some(random.of(members)) };
        Object { path, branch, is_directory: random.percent(30) }
    }

    /// One request: who asks, what, and what is true then.
    pub fn request(
        &self,
        random: &mut Random,
        source: &PolicySource,
    ) -> (&Subject, Question<'_>, Given) {
        let who = &self.callers[random.below(self.callers.len())];
        let mut facts = Given {
            now: time(random),
            size_after: random.percent(60).then(|| random.of(&SIZES)),
            owner: random.percent(70).then(|| random.of(&UIDS)),
            labels: vec![],
            changes_labels: false,
        };
        if random.percent(40) {
            facts.labels = random.some(&LABELS, 2).iter().map(|label| (*label).into()).collect();
        }
        let question = match random.below(10) {
            0..6 => {
                let mut operation = random.of(&Operation::ALL);
                if random.percent(6) {
                    operation = random.of(&[Operation::Setxattr, Operation::Removexattr]);
                }
                let xattrs = matches!(operation, Operation::Setxattr | Operation::Removexattr);
                facts.changes_labels = xattrs && random.percent(50);
                Question::Decide(operation, self.at(random, None))
            }
            6..8 if !source.gates.is_empty() && random.percent(85) => {
                let gate = &source.gates[random.below(source.gates.len())];
                let from = self.at(random, Some(&gate.from));
                Question::Cross(from, self.at(random, Some(&gate.to)))
            }
            6..8 => Question::Cross(self.at(random, None), self.at(random, None)),
            _ => {
                let here = self.at(random, None);
                let near = here.branch.map(|branch| vec![branch]);
                let among = if random.percent(75) { near.as_deref() } else { None };
                Question::Widens(here, self.at(random, among))
            }
        };
        (who, question, facts)
    }
}

fn time(random: &mut Random) -> jiff::Timestamp {
    let second = if random.percent(60) {
        random.of(&CHANGES) + random.below(6 * 3600) as i64 - 3 * 3600
    } else {
        1_767_225_600 + random.below(365 * 86_400) as i64
    };
    // Windows open and close on quarters of an hour.
    let edge = second - second % 900 + random.of(&[-1, 0, 59, 60]);
    let second = if random.percent(40) { edge } else { second };
    jiff::Timestamp::from_second(second).expect("a time of our days")
}

/// A path and the branches that could be said to hold it: the members of the pool, or one, or none.
fn place(
    random: &mut Random,
    source: &PolicySource,
    number: usize,
) -> (ViewPath, Vec<BranchIndex>) {
    let gates = source.gates.len();
    let bytes = if number.is_multiple_of(3) {
        let branch = &source.branches[random.below(source.branches.len())];
        let rest = if gates > 0 && random.percent(70) {
            let gate = &source.gates[random.below(gates)];
            random.of(gate.paths.texts())
        } else {
            relative(random)
        };
        let rest = example(random, &rest);
        [branch.at.as_bytes(), &rest].join(&b'/')
    } else {
        let rule = &source.rules[random.below(source.rules.len())];
        let text = random.of(rule.paths.texts());
        [&b"/"[..], &example(random, &text)].concat()
    };
    let bytes = Path::new(OsStr::from_bytes(&bytes));
    let path = ViewPath::parse(bytes).unwrap_or_else(ViewPath::root);
    let depth =
        |branch: &BranchFacts| path.below(&branch.at).map(|_| branch.at.components().count());
    let deepest = source.branches.iter().filter_map(depth).max();
    let holds = |(_, branch): &(usize, &BranchFacts)| deepest.is_some() && depth(branch) == deepest;
    let members = source.branches.iter().enumerate().filter(holds);
    let members = members.map(|(at, _)| BranchIndex(at as u16)).collect();
    (path, members)
}
