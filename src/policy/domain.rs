//! Domains: a branch outside any pool, or a whole pool. A rename within a domain is no crossing, and
//! people are told of the domain by the name that the configuration gives it: the pool's, never a
//! member's, unless a gate tells the members of that pool apart.

use super::{BranchFacts, PolicySource};
use crate::types::BranchIndex;

impl PolicySource {
    pub(super) fn facts(&self, branch: Option<BranchIndex>) -> Option<&BranchFacts> {
        self.branches.get(usize::from(branch?.0))
    }

    /// Whether two branches are one, or members of one pool. Virtual folders, which no branch provides,
    /// are one domain too.
    pub(super) fn one_domain(&self, a: Option<BranchIndex>, b: Option<BranchIndex>) -> bool {
        let pool = |branch| self.facts(branch).and_then(|facts| facts.pool.as_ref());
        a == b || pool(a).is_some_and(|own| pool(b) == Some(own))
    }

    /// The name of the branch, or of its pool.
    pub(super) fn domain_name(&self, branch: Option<BranchIndex>) -> &str {
        self.facts(branch).map_or("no branch", |facts| facts.pool.as_ref().unwrap_or(&facts.name))
    }

    /// As [`PolicySource::domain_name`], with what it is.
    pub(super) fn domain_text(&self, branch: Option<BranchIndex>) -> String {
        let name = self.domain_name(branch);
        match self.facts(branch) {
            None => name.to_owned(),
            Some(BranchFacts { pool: Some(_), .. }) => format!("pool {name}"),
            Some(BranchFacts { pool: None, .. }) => format!("branch {name}"),
        }
    }

    /// The name of a gate's end: the pool's where it is all of a pool.
    pub(super) fn end_name(&self, end: &[BranchIndex]) -> &str {
        let first = end.first().copied();
        match self.facts(first) {
            Some(BranchFacts { pool: pool @ Some(_), name, .. })
                if self.branches.iter().filter(|facts| facts.pool == *pool).count() > end.len() =>
            {
                name
            }
            _ => self.domain_name(first),
        }
    }
}
