//! Places in the code of crossings where a test run leaves out a check or takes two steps in the
//! wrong order, to see whether the tests notice (`scripts/prove.d/sabotage`, `tests/SABOTAGE.md`). Calls
//! of `Storage` need no such place: there the tests' storage does it.

/// Whether this run of the tests has this place wrong. Never outside tests.
#[cfg(not(test))]
#[inline(always)]
pub(super) const fn sabotaged(_point: &str) -> bool {
    false
}

#[cfg(test)]
pub(super) use super::tests::sabotage::sabotaged;
