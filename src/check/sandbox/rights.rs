//! Landlock: what may be done with files, by path (landlock(7)).

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, Scope, path_beneath_rules,
};

use super::mounts::Places;
use super::{EMPTY, INPUT, Step};

/// The version that is made use of; older kernels enforce what they know of it.
const VERSION: ABI = ABI::V6;

/// Restricts this process to reading and executing what it was shown, and to its `/tmp`. False where the
/// kernel has no Landlock.
pub(super) fn restrict(places: &Places) -> Step<bool> {
    let enforced = enforce(places).map_err(|error| format!("cannot restrict access: {error}"))?;
    Ok(enforced != RulesetStatus::NotEnforced)
}

fn enforce(places: &Places) -> Result<RulesetStatus, landlock::RulesetError> {
    let read = AccessFs::from_read(VERSION);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::ReadDir;
    let scratch = AccessFs::from_all(VERSION) & !BitFlags::from(AccessFs::Execute);
    let content = [Path::new(INPUT), Path::new(EMPTY)];
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .scope(Scope::from_all(VERSION))?
        .create()?
        .add_rules(path_beneath_rules(&places.readable, read))?
        .add_rules(path_beneath_rules(content, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rules(path_beneath_rules([Path::new("/dev")], device))?
        .add_rules(path_beneath_rules([Path::new("/tmp")], scratch))?
        .restrict_self()?;
    Ok(status.ruleset)
}
