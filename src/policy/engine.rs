//! The engine. For now a list that is walked; compiled tables come with the policy issue.

use super::{Considered, Decision, Gate, Object, PolicySource, Subject};
use crate::types::Operation;

/// A policy in force.
#[derive(Debug)]
pub struct Policy {
    source: PolicySource,
    generation: u64,
}

impl Policy {
    /// Takes a checked source; `generation` counts from 1 within a run.
    pub fn new(source: PolicySource, generation: u64) -> Self {
        Self { source, generation }
    }

    /// Which of this run's policies this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Decides one operation inside a branch (or on a virtual folder).
    pub fn decide(
        &self,
        _subject: &Subject,
        _operation: Operation,
        _object: Object<'_>,
    ) -> Decision {
        let _ = &self.source;
        todo!()
    }

    /// Decides a move between branches: rules on both sides, then the gate that carries it.
    pub fn decide_crossing(
        &self,
        _subject: &Subject,
        _source: Object<'_>,
        _target: Object<'_>,
    ) -> (Decision, Option<&Gate>) {
        todo!()
    }

    /// Every rule and gate considered for a request, in the order of the file.
    pub fn explain(
        &self,
        _subject: &Subject,
        _operation: Operation,
        _object: Object<'_>,
        _target: Option<Object<'_>>,
    ) -> (Decision, Vec<Considered>) {
        todo!()
    }
}
