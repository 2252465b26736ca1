//! What a memory bank costs as its rows grow, a line of JSON: `scripts/growth` runs it once for each number of rows.
//!
//! `cargo run --release -p fndm-memory --example bank_growth -- ROWS FILE`

use std::error::Error;
use std::time::Instant;

use fndm_memory::{MemoryBank, MemoryConfig, greedy, silent};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: fndm_kernels::CachingAlloc = fndm_kernels::CachingAlloc::new();

/// Patches of a slice of 256 px.
const QUERIES: usize = 4096;
/// Rows that the greedy selection keeps.
const CHOSEN: usize = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(rows), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("expected ROWS and FILE".into());
    };
    let rows: usize = rows.parse()?;
    let config = MemoryConfig {
        budget_bytes: 4 << 30,
        ..MemoryConfig::default()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut draw =
        |n: usize| Array2::from_shape_simple_fn((n, config.dimension()), || rng.random::<f32>());
    let (features, queries) = (draw(rows), draw(QUERIES));

    let begun = Instant::now();
    let chosen = greedy(features.view(), CHOSEN.min(rows), &mut silent)?;
    let selection = begun.elapsed();
    MemoryBank::from_rows(&config, None, features)?.save(&file)?;

    let begun = Instant::now();
    let bank = MemoryBank::load_within(&file, config.budget_bytes)?;
    let load = begun.elapsed();
    bank.score(queries.view())?;
    let begun = Instant::now();
    let scores = bank.score(queries.view())?;
    let search = begun.elapsed();
    println!(
        r#"{{"rows": {}, "chosen": {}, "selection_ms": {:.1}, "load_ms": {:.1}, "search_ms": {:.1}, "mean_score": {}}}"#,
        bank.len(),
        chosen.len(),
        1e3 * selection.as_secs_f64(),
        1e3 * load.as_secs_f64(),
        1e3 * search.as_secs_f64(),
        scores.mean().unwrap_or(f32::NAN),
    );
    Ok(())
}
