//! What people call operations: a verb stands for one of its operations.

use std::str::FromStr;

use crate::types::Operation;

/// The operation that stands for a verb or is named itself: of a file, and of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// When it is asked of anything but a directory.
    pub file: Operation,
    /// When it is asked of a directory.
    pub directory: Operation,
}

impl Wanted {
    /// The verbs that stand for an operation.
    pub const VERBS: [&str; 7] = ["read", "write", "add", "remove", "attrs", "move", "rename"];

    const fn both(operation: Operation) -> Self {
        Self { file: operation, directory: operation }
    }

    /// Whether a second path belongs to it.
    pub fn is_two_sided(self) -> bool {
        matches!(self.file, Operation::MoveSource | Operation::RenameSource | Operation::Link)
    }
}

impl FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let verb = match text {
            "read" => Some(Self { file: Operation::OpenRead, directory: Operation::List }),
            "write" => Some(Self::both(Operation::OpenWrite)),
            "add" => Some(Self::both(Operation::Create)),
            "remove" => Some(Self { file: Operation::Unlink, directory: Operation::Rmdir }),
            "attrs" => Some(Self::both(Operation::Chmod)),
            "move" => Some(Self::both(Operation::MoveSource)),
            "rename" => Some(Self::both(Operation::RenameSource)),
            _ => None,
        };
        let single = || Operation::ALL.into_iter().find(|operation| operation.name() == text);
        verb.or_else(|| single().map(Self::both)).ok_or_else(|| {
            let names: Vec<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
            format!("neither a verb ({}) nor one of {}", Self::VERBS.join(", "), names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_operations_are_wanted() {
        assert!(Wanted::VERBS.iter().all(|verb| verb.parse::<Wanted>().is_ok()));
        for operation in Operation::ALL {
            assert_eq!(operation.name().parse(), Ok(Wanted::both(operation)));
        }
        assert!("mov".parse::<Wanted>().is_err());
        let two_sided = ["move", "rename", "link"].map(|text| text.parse::<Wanted>().unwrap());
        assert!(two_sided.iter().all(|wanted| wanted.is_two_sided()));
        assert!(!"rename-target".parse::<Wanted>().unwrap().is_two_sided());
    }
}
