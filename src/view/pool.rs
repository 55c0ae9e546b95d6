//! Pools: which branches are shown as one, and where something new goes. Does no I/O.

use crate::types::{BranchIndex, Placement, PoolIndex, ViewPath};

/// Several branches shown as one tree. Where several have a name, the first in order wins;
/// directories of one name are merged.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Name in the configuration.
    pub name: String,
    /// Its place in the view.
    pub at: ViewPath,
    /// In order of precedence; never empty.
    pub members: Vec<BranchIndex>,
    /// Where something new goes.
    pub place: Placement,
}

/// What a rename stays inside without being a crossing: a branch of its own, or a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// A branch in no pool.
    Branch(BranchIndex),
    /// A pool with all its members.
    Pool(PoolIndex),
}

/// A member that could take something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub branch: BranchIndex,
    /// Bytes that an ordinary user can still write.
    pub free: u64,
    /// Bytes that must stay free.
    pub min_free: u64,
    /// It has the folder already.
    pub has_folder: bool,
}

impl Candidate {
    /// Whether it has what must stay free.
    pub fn has_min_free(&self) -> bool {
        self.free >= self.min_free
    }
}

/// The members to try in turn. Those with less than their `min_free` are left out.
pub fn placement(place: Placement, members: &[Candidate]) -> Vec<BranchIndex> {
    let mut able: Vec<Candidate> =
        members.iter().copied().filter(Candidate::has_min_free).collect();
    // Sorting is stable: what is equal stays in order of the configuration.
    let most_free = |member: &Candidate| std::cmp::Reverse(member.free);
    match place {
        Placement::First => {}
        Placement::MostFree => able.sort_by_key(most_free),
        Placement::SameDirectory => {
            able.sort_by_key(|member| {
                let rank = if member.has_folder { None } else { Some(most_free(member)) };
                (rank.is_some(), rank)
            });
        }
    }
    able.into_iter().map(|member| member.branch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(place: Placement, members: &[(u64, bool)], expected: &[u16]) {
        let candidate = |(at, (free, has_folder)): (usize, &(u64, bool))| Candidate {
            branch: BranchIndex(at as u16),
            free: *free,
            min_free: 10,
            has_folder: *has_folder,
        };
        let members: Vec<_> = members.iter().enumerate().map(candidate).collect();
        let expected: Vec<_> = expected.iter().copied().map(BranchIndex).collect();
        assert_eq!(placement(place, &members), expected);
    }

    #[test]
    fn members_short_of_space_are_left_out() {
        for place in [Placement::First, Placement::MostFree, Placement::SameDirectory] {
            check(place, &[(9, true), (10, false)], &[1]);
            check(place, &[(9, true), (0, true)], &[]);
        }
    }

    #[test]
    fn first_goes_by_order() {
        check(Placement::First, &[(11, false), (99, true), (50, true)], &[0, 1, 2]);
    }

    #[test]
    fn most_free_goes_by_space_and_then_by_order() {
        check(
            Placement::MostFree,
            &[(11, true), (99, false), (99, true), (50, false)],
            &[1, 2, 3, 0],
        );
    }

    #[test]
    fn same_directory_goes_first_to_who_has_the_folder() {
        check(
            Placement::SameDirectory,
            &[(90, false), (20, true), (99, false), (30, true)],
            &[1, 3, 2, 0],
        );
        check(Placement::SameDirectory, &[(20, false), (90, false)], &[1, 0]);
    }
}
