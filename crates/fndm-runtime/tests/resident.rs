//! Large blocks take the memory that was asked for. A file of its own: other tests would count too.

#![cfg(target_os = "linux")]

#[global_allocator]
static ALLOCATOR: fndm_runtime::CachingAlloc = fndm_runtime::CachingAlloc::new();

/// Resident memory of the process in kB.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn blocks_between_two_sizes_take_no_more_than_they_hold() {
    let Some(before) = resident() else {
        eprintln!("skipped: /proc/self/status does not tell the resident memory");
        return;
    };
    // Rounded up to 6 MB, of which the last 0.9 would be in a huge page.
    let kilobytes = 5 * 1024 + 100;
    let blocks: Vec<Vec<u8>> = (0..24).map(|_| vec![1u8; kilobytes << 10]).collect();
    let taken = resident().map_or(0, |now| now.saturating_sub(before));
    let asked = blocks.len() * kilobytes;
    println!("{taken} kB resident for {asked}");
    assert!(
        taken < asked + 4096,
        "{taken} kB resident for {asked} that were asked for"
    );
}
