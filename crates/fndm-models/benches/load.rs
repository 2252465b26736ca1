//! Loading the paper's 114 M-parameter network from safetensors, beside the mere reading of its file.
//!
//! `cargo bench -p fndm-models --bench load`. The sides alternate; the medians' ratios and the range of the pairwise
//! ratios are printed. The file is read once before, so that all take it from the system's cache. It is read into fresh
//! memory, and into a buffer that is kept, whose pages are there already.

use std::io::Read;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use fndm_models::{Limits, Parameters, StateDict, UNet, UNetConfig};

const TIMES: usize = 15;

fn timed<T>(run: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let made = std::hint::black_box(run());
    let time = start.elapsed();
    drop(made);
    time
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

fn main() -> fndm_models::Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let safe = folder.path().join("paper.safetensors");
    let pt = folder.path().join("paper.pt");
    let config = UNetConfig::paper_256(9, 4).with_learned_sigma();
    {
        let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
        UNet::new(&config, parameters.builder())?;
        println!("{} parameters", parameters.len_elements());
        parameters.save(&safe, &config)?;
        parameters.state_dict()?.save_torch(&pt)?;
    }
    let limits = Limits::default();
    let network = |path| -> UNet {
        let state = StateDict::read(path, &limits).expect("a checkpoint");
        UNet::from_state_dict(&config, &state, DType::F32, &Device::Cpu).expect("a network")
    };
    let mut kept = std::fs::read(&safe).expect("a file");
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..=TIMES {
        let round = [
            timed(|| std::fs::read(&safe).expect("a file")),
            timed(|| {
                let mut file = std::fs::File::open(&safe).expect("a file");
                file.read_exact(&mut kept).expect("a file");
            }),
            timed(|| network(&safe)),
            timed(|| network(&pt)),
        ];
        for (all, one) in times.iter_mut().zip(round) {
            all.push(one);
        }
    }
    let first = times.each_ref().map(|t| t[0]);
    println!(
        "first round: read {:.0?}, network {:.0?}",
        first[0], first[2]
    );
    // The first round warms the caches.
    let [fresh, kept, safe, pt] = times.map(|t| t[1..].to_vec());
    for (base, read) in [("fresh memory", fresh), ("a kept buffer", kept)] {
        println!("the file into {base}: {:.0?}", median(&read));
        for (what, times) in [("safetensors", &safe), ("PyTorch's .pt", &pt)] {
            let ratios = || {
                let pairs = times.iter().zip(&read);
                pairs.map(|(a, b)| a.as_secs_f64() / b.as_secs_f64())
            };
            println!(
                "  network from {what}: {:.0?}, {:.2} times that ({:.2} to {:.2})",
                median(times),
                median(times).as_secs_f64() / median(&read).as_secs_f64(),
                ratios().fold(f64::INFINITY, f64::min),
                ratios().fold(0., f64::max),
            );
        }
    }
    Ok(())
}
