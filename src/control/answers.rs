//! What decisions look like in answers: to `octroi explain` and `octroi why`.

use serde::{Deserialize, Serialize};

use crate::policy::Considered;
use crate::types::{Operation, ViewPath};

/// What decided, for people and scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whether it may go on.
    pub allowed: bool,
    /// What decided, such as `rule no-scripts` or `no gate`.
    pub by: String,
    /// The rule's reason, or what was missing.
    pub reason: Option<String>,
    /// How large an allowed operation may make the file, where a rule limits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Every rule and gate considered, in the order of the file.
    pub considered: Vec<Considered>,
}

/// How large a file may become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// What denies more.
    pub by: String,
}

/// A denial, for the one who met it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialReport {
    /// When, RFC 3339.
    pub time: String,
    /// What was tried.
    pub operation: Operation,
    /// On what; of a rename or move the source.
    pub path: ViewPath,
    /// The second path of a rename, move or link.
    pub target: Option<ViewPath>,
    /// What decided then, and what the policy in force considers.
    pub explanation: Explanation,
}
