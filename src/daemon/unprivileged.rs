//! What a view does otherwise for a user other than root: said once, when it is mounted.

use crate::config::Config;
use crate::fuse::MountOptions;
use crate::types::BranchIo;

/// A sentence for each difference that this configuration and these options bring about.
pub(super) fn differences(config: &Config, options: &MountOptions) -> Vec<String> {
    let mut said = vec![
        if options.allow_other {
            "not root: others can enter the view and make nothing in it, for it would be yours"
        } else {
            "not root: nobody else can enter the view, not even root, without -o allow_other"
        }
        .to_owned(),
        "not root: what you may not read does not cross; nor, to another file system, what others \
         own, device nodes, capabilities and trusted attributes"
            .to_owned(),
        "not root: files are found by path, not by file handle: what is moved or replaced in a branch \
         from outside while it is in use answers \"Stale file handle\""
            .to_owned(),
    ];
    let passed = config.branches.iter().filter(|entry| entry.spec.io == BranchIo::Passthrough);
    let passed: Vec<&str> = passed.map(|entry| entry.spec.name.as_str()).collect();
    if !passed.is_empty() {
        let names = passed.join(", ");
        said.push(format!("not root: io = \"passthrough\" ({names}) is as \"checked\""));
    }
    if options.devices || options.set_id {
        said.push(
            "not root: device nodes and set-id programs do not work in the view: -o dev and -o suid \
             are for root alone"
                .to_owned(),
        );
    }
    said
}
