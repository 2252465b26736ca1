//! What a training reports by `tracing`.

mod common;

use std::io;
use std::sync::{Arc, Mutex};

use candle_core::Device;
use common::{diffusion_config, slices, unet};
use fndm_train::DiffusionTrainer;

/// Lines in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_checkpoint_and_a_resume_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let trainer =
        || DiffusionTrainer::new(&diffusion_config(), &unet(), slices(4), 3, &Device::Cpu).unwrap();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut first = trainer();
        first.step().unwrap();
        first.checkpoint(folder.path(), 1).unwrap();
        trainer().resume(folder.path()).unwrap();
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let told: Vec<&str> = text.lines().collect();
    assert_eq!(told.len(), 2, "{text}");
    for (line, words) in told.iter().zip(["checkpoint written", "training resumed"]) {
        assert!(line.contains(" INFO fndm_train"), "{line}");
        assert!(
            line.contains(words) && line.contains("iteration=1"),
            "{line}"
        );
        assert!(line.contains("step-00000001.safetensors"), "{line}");
    }
}
