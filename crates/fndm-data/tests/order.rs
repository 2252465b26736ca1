//! The order of slices.

use fndm_data::Order;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_epoch_has_every_slice(labels in prop::collection::vec(0u8..2, 1..30), seed: u64) {
        let mut order = Order::new(&labels, None, seed).unwrap();
        let n = labels.len() as u64;
        for epoch in 0..3 {
            let mut seen: Vec<usize> = (0..n).map(|g| order.at(epoch * n + g)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..labels.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_share_of_diseased_slices_holds(share in 0.0f64..=1.0, seed: u64) {
        let labels: Vec<u8> = (0..50).map(|n| u8::from(n % 10 == 0)).collect();
        let mut order = Order::new(&labels, Some(share), seed).unwrap();
        let draws: Vec<usize> = (0..1000).map(|g| order.at(g)).collect();
        let diseased = draws.iter().filter(|slice| labels[**slice] == 1).count();
        prop_assert!((diseased as f64 - 1000.0 * share).abs() < 1.0 + 1e-6);
        // Any draw can be asked for first.
        let mut other = Order::new(&labels, Some(share), seed).unwrap();
        for g in [999, 3, 500, 0] {
            prop_assert_eq!(other.at(g), draws[g as usize]);
        }
    }
}

/// At a share of all or nothing the other label may be missing, for any draw.
#[test]
fn a_share_of_all_or_nothing_needs_one_label() {
    for (label, share) in [(0, 0.0), (1, 1.0)] {
        let mut order = Order::new(&[label; 5], Some(share), 3).unwrap();
        for g in [0, 1, (1 << 53) + 1, u64::MAX] {
            assert!(order.at(g) < 5);
        }
    }
}

#[test]
fn another_seed_gives_another_order() {
    let labels = [0u8; 40];
    let draw = |seed| -> Vec<usize> {
        let mut order = Order::new(&labels, None, seed).unwrap();
        (0..40).map(|g| order.at(g)).collect()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}
