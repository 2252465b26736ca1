//! What hangs together with the head's rim.

use fndm_metrics::{Connectivity, connected_components};
use ndarray::{Array3, Axis, Zip};

use crate::{Error, Result};

/// Takes from `inside`, the head without its rim, what is `marked` and hangs together, in its slice and by the pixels' sides, with marked
/// pixels of the rim. All `(N, H, W)`.
///
/// Fat of the scalp and of the orbits goes on into the rim; lesions that lie deep don't.
///
/// # Errors
/// When the arrays are of other slices than each other.
pub fn clear_rim(
    inside: &mut Array3<bool>,
    head: &Array3<bool>,
    marked: &Array3<bool>,
) -> Result<()> {
    if inside.dim() != head.dim() || marked.dim() != head.dim() {
        return Err(Error::Input {
            what: "the inner head and what is marked".into(),
            expected: format!("{:?}", head.dim()),
            got: format!("{:?}, {:?}", inside.dim(), marked.dim()),
        });
    }
    for (n, mut inside) in inside.outer_iter_mut().enumerate() {
        let (head, marked) = (head.index_axis(Axis(0), n), marked.index_axis(Axis(0), n));
        let marked = Zip::from(&head).and(&marked).map_collect(|&a, &b| a && b);
        let parts = connected_components(&marked.view(), Connectivity::Faces)?;
        let mut reaches_rim = vec![false; parts.count() + 1];
        Zip::from(&parts.labels)
            .and(&inside)
            .for_each(|&part, &inside| reaches_rim[part as usize] |= part > 0 && !inside);
        Zip::from(&mut inside)
            .and(&parts.labels)
            .for_each(|inside, &part| *inside &= !reaches_rim[part as usize]);
    }
    Ok(())
}
