//! How often each rule and gate decided, for people.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Basis, Policy};
use std::sync::atomic::Ordering;

/// A rule or gate, and how often it decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// `rule` or `gate`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Times.
    pub hits: u64,
    /// The last time to the second, RFC 3339; none for never.
    pub last: Option<String>,
}

impl Policy {
    /// All rules and then all gates in order of declaration, those that never decided too.
    pub fn counted(&self) -> Vec<Counted> {
        let source = self.source();
        let rules = source.rules.iter().map(|rule| ("rule", Basis::Rule(rule.name.clone())));
        let gates = source.gates.iter().map(|gate| ("gate", Basis::Gate(gate.name.clone())));
        rules.chain(gates).map(|(kind, basis)| self.counted_one(kind, &basis)).collect()
    }

    fn counted_one(&self, kind: &str, basis: &Basis) -> Counted {
        let (hits, last) = self.hits_of(basis).map_or((0, 0), |hits| {
            (hits.count.load(Ordering::Relaxed), hits.last.load(Ordering::Relaxed))
        });
        let name = match basis {
            Basis::Rule(name) | Basis::Gate(name) => name.to_string(),
            _ => String::new(),
        };
        let last = i64::try_from(last).ok().filter(|last| *last > 0);
        let last =
            last.and_then(|last| Timestamp::from_second(last).ok().map(|last| last.to_string()));
        Counted { kind: kind.to_owned(), name, hits, last }
    }
}
