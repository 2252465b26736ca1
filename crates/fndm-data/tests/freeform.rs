//! Free-form masks against measured statistics of the published code, and properties of all masks.

use std::io::Write;
use std::path::PathBuf;

use fndm_data::freeform::{Blob, Brush, FreeForm, MaskMix};
use ndarray::Array2;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

const SAMPLES: usize = 1000;

/// Standard errors allowed between two samples.
const BAND: f64 = 4.0;

/// Allowance for another way of drawing thick lines: a disc of even diameter d covers d or d + 1
/// pixels. Half a pixel on the mean brush of 25 px is 2 % of the area of a stroke.
const DRAWING: f64 = 0.02;

/// Says it to the terminal, past the capture of what a passing test prints.
macro_rules! aloud {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// Keys that the test of the published statistics knows.
const KNOWN: [&str; 18] = [
    "height",
    "width",
    "samples",
    "area_fraction",
    "area_fraction_histogram_tenths",
    "strokes_per_mask",
    "vertices_per_stroke",
    "brush_width",
    "brush_width_histogram",
    "components_4_connected",
    "components_4_connected_mean",
    "components_8_connected",
    "components_8_connected_mean",
    "largest_component_share",
    "share_touching_border",
    "mean_mask_on_8x8_grid",
    // The lengths of segments can't be seen in a mask; the area and the tiles depend on them.
    "segment_length",
    "note",
];

/// The keys of an object that are not among these.
fn strange(object: &Value, known: &[&str]) -> Vec<String> {
    let keys = object
        .as_object()
        .into_iter()
        .flat_map(|object| object.keys());
    keys.filter(|key| !known.contains(&key.as_str()))
        .cloned()
        .collect()
}

/// The least and the greatest number that a histogram counts.
fn range(histogram: &Value) -> (u32, u32) {
    let keys = histogram.as_object().expect("histogram").keys();
    let numbers = keys.map(|key| key.parse::<u32>().expect("number"));
    numbers.fold((u32::MAX, 0), |(low, high), n| (low.min(n), high.max(n)))
}

/// The published statistics: of the folder `FNDM_GOLDEN`, the one beside the repository, or the copy in it.
fn statistics() -> Value {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| root.join("../../../shared/golden"), PathBuf::from);
    let files = [
        folder.join("freeform/statistics.json"),
        root.join("tests/golden/freeform/statistics.json"),
    ];
    if !files[0].is_file() {
        aloud!("no {}: using the copy in tests/golden", files[0].display());
    }
    let path = files.iter().find(|p| p.is_file());
    let path = path.expect("a copy is kept in the repository");
    let text = std::fs::read_to_string(path).expect("readable");
    let file = serde_json::from_str(&text).expect("json");
    for key in strange(&file, &["set", "peer", "pillow", "results"]) {
        aloud!("left out: {key}, which this test does not know");
    }
    file
}

/// Sizes of the connected parts of a mask.
fn parts(mask: &Array2<bool>, diagonal: bool) -> Vec<usize> {
    let mut left = mask.clone();
    let mut sizes = Vec::new();
    for start in ndarray::indices(mask.raw_dim()) {
        if !left[start] {
            continue;
        }
        left[start] = false;
        let (mut stack, mut size) = (vec![start], 0);
        while let Some((i, j)) = stack.pop() {
            size += 1;
            for (di, dj) in [
                (0, 1),
                (1, 0),
                (0, -1),
                (-1, 0),
                (1, 1),
                (1, -1),
                (-1, 1),
                (-1, -1),
            ] {
                if di != 0 && dj != 0 && !diagonal {
                    continue;
                }
                let near = (i.wrapping_add_signed(di), j.wrapping_add_signed(dj));
                if left.get(near) == Some(&true) {
                    left[near] = false;
                    stack.push(near);
                }
            }
        }
        sizes.push(size);
    }
    sizes
}

fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance.sqrt())
}

fn number(v: &Value) -> f64 {
    v.as_f64().expect("number")
}

/// Two samples of `n` each have the same mean, within the band and the allowance.
fn close(what: &str, ours: f64, theirs: f64, deviation: f64, n: f64, allowance: f64) {
    let band = BAND * deviation * (1.0 / SAMPLES as f64 + 1.0 / n).sqrt() + allowance;
    println!("{what}: {ours:.4}, published code {theirs:.4}, band {band:.4}");
    assert!((ours - theirs).abs() <= band, "{what}");
}

#[test]
fn paper_masks_have_the_published_statistics() {
    let file = statistics();
    let mut compared = 0;
    for (size, golden) in file["results"].as_object().expect("results") {
        // A key that this test doesn't know may be a rule of drawing that it doesn't follow.
        let unknown = strange(golden, &KNOWN);
        if !unknown.is_empty() {
            aloud!("left out: {size}: {unknown:?} is not known to this test");
            continue;
        }
        compared += 1;
        let h = number(&golden["height"]) as usize;
        let w = number(&golden["width"]) as usize;
        let n = number(&golden["samples"]);
        let mut rng = ChaCha8Rng::seed_from_u64(20_230_901);
        let form = FreeForm::paper();
        // What is drawn for each mask: the published numbers span the form's own.
        assert_eq!(range(&golden["strokes_per_mask"]), form.strokes, "{size}");
        let (low, high) = range(&golden["vertices_per_stroke"]);
        assert_eq!((low - 1, high - 1), form.segments, "{size}");
        let brush = Brush::Pixels {
            low: number(&golden["brush_width"]["min"]),
            high: number(&golden["brush_width"]["max"]) + 1.0,
        };
        assert_eq!(brush, form.brush, "{size}");
        let masks: Vec<_> = (0..SAMPLES).map(|_| form.draw(&mut rng, h, w)).collect();

        let areas: Vec<f64> = masks
            .iter()
            .map(|m| m.iter().filter(|v| **v).count() as f64 / (h * w) as f64)
            .collect();
        let (mean, deviation) = moments(&areas);
        let area = &golden["area_fraction"];
        let (their_mean, their_deviation) = (number(&area["mean"]), number(&area["std"]));
        close(
            &format!("{size} area"),
            mean,
            their_mean,
            their_deviation,
            n,
            DRAWING * their_mean,
        );
        // The deviation of a sample's deviation, for the flat distributions found here.
        let spread = their_deviation / 2f64.sqrt();
        close(
            &format!("{size} deviation of area"),
            deviation,
            their_deviation,
            spread,
            n,
            DRAWING * their_deviation,
        );

        for (share, theirs) in area["quantiles"].as_object().expect("quantiles") {
            // The share of our masks below their quantile.
            let share: f64 = share.parse().expect("share");
            let theirs = number(theirs);
            let below = |by: f64| {
                areas.iter().filter(|a| **a <= theirs * by).count() as f64 / SAMPLES as f64
            };
            let band = BAND * (share * (1.0 - share) * (1.0 / SAMPLES as f64 + 1.0 / n)).sqrt();
            println!(
                "{size} areas up to {theirs:.4}: {:.3}, published {share}",
                below(1.0)
            );
            assert!(
                below(1.0 + DRAWING) >= share - band,
                "{size} quantile {share}"
            );
            assert!(
                below(1.0 - DRAWING) <= share + band,
                "{size} quantile {share}"
            );
        }
        for (key, diagonal) in [
            ("components_4_connected", false),
            ("components_8_connected", true),
        ] {
            let ours: Vec<f64> = masks
                .iter()
                .map(|m| parts(m, diagonal).len() as f64)
                .collect();
            let (mean, deviation) = moments(&ours);
            let theirs = number(&golden[format!("{key}_mean")]);
            close(&format!("{size} {key}"), mean, theirs, deviation, n, 0.01);
        }
        let shares: Vec<f64> = masks
            .iter()
            .map(|m| {
                let sizes = parts(m, true);
                let total: usize = sizes.iter().sum();
                sizes.iter().copied().max().unwrap_or(0) as f64 / total.max(1) as f64
            })
            .collect();
        let theirs = &golden["largest_component_share"];
        close(
            &format!("{size} largest part"),
            moments(&shares).0,
            number(&theirs["mean"]),
            number(&theirs["std"]),
            n,
            0.005,
        );

        let border = masks
            .iter()
            .filter(|m| {
                let sides = [m.row(0), m.row(h - 1), m.column(0), m.column(w - 1)];
                sides.iter().any(|s| s.iter().any(|v| *v))
            })
            .count() as f64
            / SAMPLES as f64;
        let theirs = number(&golden["share_touching_border"]);
        close(
            &format!("{size} touching the border"),
            border,
            theirs,
            (theirs * (1.0 - theirs)).sqrt(),
            n,
            0.01,
        );

        // Where the masks lie: the mean in each of 8 x 8 tiles. A tile is at most as variable as
        // one that is wholly in or out.
        let tiles = golden["mean_mask_on_8x8_grid"].as_array().expect("grid");
        let mut worst: f64 = 0.0;
        for (r, row) in tiles.iter().enumerate() {
            for (c, theirs) in row.as_array().expect("row").iter().enumerate() {
                let theirs = number(theirs);
                let tile = ndarray::s![r * h / 8..(r + 1) * h / 8, c * w / 8..(c + 1) * w / 8];
                let (mut inside, mut all) = (0, 0);
                for mask in &masks {
                    let tile = mask.slice(tile);
                    inside += tile.iter().filter(|v| **v).count();
                    all += tile.len();
                }
                let ours = inside as f64 / all as f64;
                let band = BAND
                    * (theirs * (1.0 - theirs) * (1.0 / SAMPLES as f64 + 1.0 / n)).sqrt()
                    + DRAWING * theirs;
                worst = worst.max((ours - theirs).abs() / band);
                assert!(
                    (ours - theirs).abs() <= band,
                    "{size} tile {r},{c}: {ours} {theirs}"
                );
            }
        }
        println!("{size} tiles: worst {worst:.2} of the band");
    }
    assert!(compared > 0, "no size is left to compare");
}

#[test]
fn the_scaled_brush_covers_the_same_share_at_any_size() {
    let mean = |form: &FreeForm, size: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let areas: Vec<f64> = (0..400)
            .map(|_| {
                let mask = form.draw(&mut rng, size, size);
                mask.iter().filter(|v| **v).count() as f64 / (size * size) as f64
            })
            .collect();
        moments(&areas)
    };
    let (published, deviation) = mean(&FreeForm::paper(), 256);
    for size in [64, 128] {
        let (share, _) = mean(&FreeForm::scaled(size), size);
        let band = BAND * deviation * (2.0 / 400.0f64).sqrt() + 0.1 * published;
        println!("{size}: {share:.3}, at 256: {published:.3}, band {band:.3}");
        assert!((share - published).abs() < band);
    }
    for size in [48, 64, 128, 256] {
        let (share, _) = mean(&FreeForm::default(), size);
        println!("default at {size}: {share:.3}");
        assert!((0.03..0.15).contains(&share));
    }
}

#[test]
fn blobs_have_the_area_asked_for() {
    // One ellipse far larger than a pixel, on an image that holds most of it.
    let blob = Blob {
        count: (1, 1),
        area: (0.01, 0.01),
        elongation: 1.5,
        waves: 0.0,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let full = 0.01 * 300.0 * 300.0;
    let mut whole = 0;
    for _ in 0..100 {
        let mask = blob.draw(&mut rng, 300, 300);
        let area = mask.iter().filter(|v| **v).count() as f64;
        assert!(area <= full * 1.03);
        whole += usize::from(area > full * 0.97);
    }
    // A centre within 21 px of the border cuts the ellipse: at most a quarter of the image.
    assert!(whole > 65, "{whole}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let named = |e: fndm_data::Result<()>, name: &str| {
        let text = e.expect_err("refused").to_string();
        assert!(text.contains(name), "{text}");
    };
    let form = FreeForm::default();
    named(
        FreeForm {
            strokes: (0, 1),
            ..form.clone()
        }
        .check(),
        "FreeForm.strokes",
    );
    named(
        FreeForm {
            segments: (3, 2),
            ..form.clone()
        }
        .check(),
        "FreeForm.segments",
    );
    named(
        FreeForm {
            length: f64::NAN,
            ..form.clone()
        }
        .check(),
        "FreeForm.length",
    );
    let brush = Brush::Share {
        low: 0.5,
        high: 0.1,
    };
    named(FreeForm { brush, ..form }.check(), "FreeForm.brush");
    let blob = Blob::default();
    named(
        Blob {
            count: (2, 1),
            ..blob.clone()
        }
        .check(),
        "Blob.count",
    );
    named(
        Blob {
            area: (0.0, 0.1),
            ..blob.clone()
        }
        .check(),
        "Blob.area",
    );
    named(
        Blob {
            elongation: 0.5,
            ..blob.clone()
        }
        .check(),
        "Blob.elongation",
    );
    named(Blob { waves: 1.0, ..blob }.check(), "Blob.waves");
    let mix = MaskMix {
        blob_weight: -1.0,
        ..MaskMix::default()
    };
    named(mix.check(), "MaskMix");
    for good in [FreeForm::default(), FreeForm::paper(), FreeForm::scaled(64)] {
        good.check().expect("in range");
    }
    MaskMix::default().check().expect("in range");
}

#[test]
fn a_settings_file_comes_back() {
    let mix = MaskMix::only(FreeForm::paper());
    let text = serde_json::to_string(&mix).expect("json");
    assert_eq!(serde_json::from_str::<MaskMix>(&text).expect("json"), mix);
    assert_eq!(
        serde_json::from_str::<MaskMix>("{}").expect("json"),
        MaskMix::default()
    );
}

/// They are brought into range, as is promised; what is no number too.
#[test]
fn settings_out_of_range_draw_a_mask() {
    let nan = f64::NAN;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for (low, high) in [(nan, nan), (5.0, nan), (9.0, 2.0), (-1.0, f64::INFINITY)] {
        for brush in [Brush::Pixels { low, high }, Brush::Share { low, high }] {
            let strokes = FreeForm {
                strokes: (0, 0),
                segments: (9, 2),
                brush,
                length: nan,
                swapped_limits: true,
            };
            assert_eq!(strokes.draw(&mut rng, 8, 12).dim(), (8, 12));
        }
        let blob = Blob {
            count: (0, 0),
            area: (low, high),
            elongation: low,
            waves: high,
        };
        assert_eq!(blob.draw(&mut rng, 8, 12).dim(), (8, 12));
    }
}

#[test]
fn an_empty_image_or_head_gives_an_empty_mask() {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mix = MaskMix::default();
    assert_eq!(mix.draw(&mut rng, 0, 5).dim(), (0, 5));
    let head = Array2::from_elem((9, 7), false);
    assert_eq!(mix.draw_in(&mut rng, head.view()), head);
    let none = Array2::from_elem((0, 7), false);
    assert_eq!(mix.draw_in(&mut rng, none.view()), none);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn masks_are_never_empty_and_repeat_with_the_seed(seed: u64, h in 1usize..70, w in 1usize..70) {
        for mix in [MaskMix::default(), MaskMix::only(FreeForm::scaled(h))] {
            let draw = || mix.draw(&mut ChaCha8Rng::seed_from_u64(seed), h, w);
            let mask = draw();
            prop_assert_eq!(mask.dim(), (h, w));
            prop_assert!(mask.iter().any(|v| *v));
            prop_assert_eq!(mask, draw());
        }
    }

    #[test]
    fn paper_masks_fill_squares_and_stay_on_other_images(seed: u64, h in 1usize..70, w in 1usize..70) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let form = FreeForm::paper();
        prop_assert!(form.draw(&mut rng, h, h).iter().any(|v| *v));
        prop_assert_eq!(form.draw(&mut rng, h, w).dim(), (h, w));
    }

    #[test]
    fn draw_in_meets_the_head(
        seed: u64,
        h in 1usize..50,
        w in 1usize..50,
        box_ in (0.0..1.0f64, 0.0..1.0f64, 0.0..1.0f64, 0.0..1.0f64),
    ) {
        let (top, left) = ((box_.0 * h as f64) as usize, (box_.1 * w as f64) as usize);
        let (tall, wide) = ((box_.2 * h as f64) as usize + 1, (box_.3 * w as f64) as usize + 1);
        let head = Array2::from_shape_fn((h, w), |(i, j)| {
            (top..top + tall).contains(&i) && (left..left + wide).contains(&j)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mask = MaskMix::default().draw_in(&mut rng, head.view());
        prop_assert!(mask.iter().any(|m| *m));
        prop_assert!(mask.iter().zip(&head).all(|(m, h)| !*m || *h));
    }
}
