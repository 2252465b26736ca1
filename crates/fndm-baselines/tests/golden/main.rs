//! Every case of the reference data, found from its manifest. See `golden/baselines/README.md` beside the repository.
//!
//! Every key, argument and tensor of a case is used, or the case fails. Methods and kinds that no test knows fail.

#[macro_use]
mod cases;

mod backbone;
mod cflow;
mod csflow;
mod dae;
mod fastflow;
mod optimisers;
mod padim;
mod reverse_distillation;
mod stfpm;
mod training;

/// Method and kind of every test in this folder.
const KNOWN: &[(&str, &str)] = &[
    ("stfpm", "features"),
    ("stfpm", "network"),
    ("reverse_distillation", "features"),
    ("reverse_distillation", "network"),
    ("cflow", "block"),
    ("cflow", "full"),
    ("csflow", "full"),
    ("fastflow", "model"),
    ("fastflow", "flow"),
    ("padim", "full"),
    ("padim", "draws"),
    ("dae", "loop"),
    ("dae", "unet"),
    ("dae", "pieces"),
    ("dae", "evaluate"),
    ("backbone", "resnet"),
    ("backbone", "efficientnet"),
    ("backbone", "cflow_resnet"),
    ("optimisers", "sequence"),
];

#[test]
fn every_method_and_kind_has_a_test() {
    for (id, method, kind) in cases::all_kinds() {
        assert!(
            KNOWN.contains(&(&method, &kind)),
            "{id}: no test for {method}/{kind}"
        );
    }
}
