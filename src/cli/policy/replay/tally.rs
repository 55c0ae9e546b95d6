//! What came of it, in groups, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;

use serde::Serialize;

use super::judge::Untold;
use crate::cli::output::{plain, table};
use crate::cli::tx;
use crate::types::ViewPath;

/// Groups of one kind that are told apart; the rest is counted together.
const GROUPS_MAX: usize = 10_000;
/// Groups that are shown to people.
const SHOWN_MAX: usize = 10;

/// How many, and where to look for one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    pub count: u64,
    /// `seq` of the first record.
    pub seq: Option<u64>,
}

impl Count {
    fn add(&mut self, times: u64, seq: u64) {
        self.count = self.count.saturating_add(times);
        self.seq.get_or_insert(seq);
    }
}

/// Counts by group.
#[derive(Debug)]
struct Groups<K> {
    counts: HashMap<K, Count>,
    rest: Count,
}

impl<K> Default for Groups<K> {
    fn default() -> Self {
        Self { counts: HashMap::new(), rest: Count::default() }
    }
}

impl<K: Hash + Eq + Ord + Clone> Groups<K> {
    fn add(&mut self, key: K, times: u64, seq: u64) {
        let room = self.counts.len() < GROUPS_MAX || self.counts.contains_key(&key);
        let count = if room { self.counts.entry(key).or_default() } else { &mut self.rest };
        count.add(times, seq);
    }

    /// The most frequent first.
    fn sorted(&self) -> Vec<(K, Count)> {
        let mut all: Vec<_> =
            self.counts.iter().map(|(key, count)| (key.clone(), *count)).collect();
        all.sort_by(|a, b| b.1.count.cmp(&a.1.count).then_with(|| a.0.cmp(&b.0)));
        all
    }
}

/// What is decided otherwise, one way.
#[derive(Debug, Default)]
pub(super) struct Otherwise {
    all: Count,
    by: Groups<String>,
    callers: Groups<u32>,
    folders: Groups<ViewPath>,
}

impl Otherwise {
    /// Notes a record; `by` says what decided then, if that is known, and what decides now.
    pub fn add(&mut self, by: String, uid: u32, path: &ViewPath, (times, seq): (u64, u64)) {
        self.all.add(times, seq);
        self.by.add(by, times, seq);
        self.callers.add(uid, times, seq);
        self.folders.add(path.parent().unwrap_or_else(ViewPath::root), times, seq);
    }
}

/// Everything that was decided again.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub records: u64,
    pub same: u64,
    pub denied: Otherwise,
    pub allowed: Otherwise,
    pub untold: HashMap<Untold, Count>,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Records that were decided again, equal denials that share a line one by one.
    records: u64,
    same: u64,
    newly_denied: OtherwiseReport,
    newly_allowed: OtherwiseReport,
    untold: Vec<UntoldReport>,
}

#[derive(Debug, Serialize)]
struct OtherwiseReport {
    #[serde(flatten)]
    all: Count,
    by: Vec<Row<String>>,
    callers: Vec<Row<Caller>>,
    folders: Vec<Row<ViewPath>>,
    /// Counts of what is in none of the groups, for there are too many: by, callers, folders.
    beyond: [u64; 3],
}

#[derive(Debug, Serialize)]
struct Row<K> {
    key: K,
    #[serde(flatten)]
    count: Count,
}

#[derive(Debug, Serialize)]
struct Caller {
    uid: u32,
    name: String,
}

#[derive(Debug, Serialize)]
struct UntoldReport {
    why: &'static str,
    #[serde(flatten)]
    count: Count,
}

impl Tally {
    /// Notes what cannot be decided again.
    pub fn untold(&mut self, why: Untold, times: u64, seq: u64) {
        self.untold.entry(why).or_default().add(times, seq);
    }

    pub fn report(&self) -> Report {
        let mut untold: Vec<_> = self.untold.iter().map(|(why, count)| (*why, *count)).collect();
        untold.sort_by_key(|(why, _)| *why);
        let untold = untold.into_iter().map(|(why, count)| UntoldReport { why: why.text(), count });
        Report {
            records: self.records,
            same: self.same,
            newly_denied: self.denied.report(),
            newly_allowed: self.allowed.report(),
            untold: untold.collect(),
        }
    }
}

impl Otherwise {
    fn report(&self) -> OtherwiseReport {
        fn rows<K, T>(groups: Vec<(K, Count)>, key: impl Fn(K) -> T) -> Vec<Row<T>> {
            groups.into_iter().map(|(of, count)| Row { key: key(of), count }).collect()
        }
        OtherwiseReport {
            all: self.all,
            by: rows(self.by.sorted(), |by| by),
            callers: rows(self.callers.sorted(), |uid| Caller { uid, name: tx::user(uid) }),
            folders: rows(self.folders.sorted(), |folder| folder),
            beyond: [self.by.rest.count, self.callers.rest.count, self.folders.rest.count],
        }
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let untold =
            self.untold.iter().fold(0, |sum: u64, one| sum.saturating_add(one.count.count));
        let mut text = format!(
            "decided again  {}\nas it was      {}\ndenied now     {}\nallowed now    {}\n\
             cannot tell    {untold}\n",
            self.records, self.same, self.newly_denied.all.count, self.newly_allowed.all.count
        );
        text.push_str(&self.newly_denied.text("denied now, and was allowed"));
        text.push_str(&self.newly_allowed.text("allowed now, and was denied"));
        if !self.untold.is_empty() {
            text.push_str("\ncannot tell:\n");
        }
        for one in &self.untold {
            let Count { count, seq } = one.count;
            let seq = seq.map_or_else(String::new, |seq| format!(", such as seq {seq}"));
            text.push_str(&format!("  {count}: {}{seq}\n", one.why));
        }
        text
    }
}

impl OtherwiseReport {
    fn text(&self, heading: &str) -> String {
        if self.all.count == 0 {
            return String::new();
        }
        let mut rows = vec![["", "TIMES", "EXAMPLE"].map(str::to_owned).to_vec()];
        let [by, callers, folders] = self.beyond;
        add(&mut rows, "by", &self.by, by, |by| by.clone());
        add(&mut rows, "user", &self.callers, callers, |caller| caller.name.clone());
        add(&mut rows, "in", &self.folders, folders, |folder| plain(&folder.to_string()));
        format!("\n{heading}:\n{}", table(&rows))
    }
}

fn add<K>(
    rows: &mut Vec<Vec<String>>,
    word: &str,
    groups: &[Row<K>],
    beyond: u64,
    key: impl Fn(&K) -> String,
) {
    for Row { key: of, count } in groups.iter().take(SHOWN_MAX) {
        let seq = count.seq.map_or_else(String::new, |seq| format!("seq {seq}"));
        rows.push(vec![format!("{word} {}", key(of)), count.count.to_string(), seq]);
    }
    let rest = groups.iter().skip(SHOWN_MAX);
    let rest = rest.fold(beyond, |sum, row| sum.saturating_add(row.count.count));
    if rest > 0 {
        rows.push(vec![format!("{word} others"), rest.to_string(), String::new()]);
    }
}
