//! The pixels of an evaluation on the disk, where memory isn't to grow with the number of patients.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use fndm_study::NextPixels;

/// A file without a name for each arm: nothing is left of it, however the program ends.
pub(super) struct Spool {
    arms: Vec<BufWriter<File>>,
    /// Pixels of each patient.
    counts: Vec<usize>,
}

const WORDS: &str = "the file of the pixels";

impl Spool {
    /// Nothing yet; on the disk of this folder.
    pub(super) fn new(folder: &Path, arms: usize) -> Result<Self> {
        let file = || -> Result<_> {
            let file = tempfile::tempfile_in(folder)
                .with_context(|| format!("{WORDS} of an evaluation, in {}", folder.display()))?;
            Ok(BufWriter::new(file))
        };
        Ok(Self {
            arms: (0..arms).map(|_| file()).collect::<Result<_>>()?,
            counts: Vec::new(),
        })
    }

    /// Adds a patient: values and truth of each arm, of the same pixels.
    pub(super) fn add(&mut self, pixels: Vec<(Vec<f32>, Vec<bool>)>) -> Result<()> {
        let count = pixels.first().map_or(0, |(values, _)| values.len());
        for (arm, (values, truth)) in self.arms.iter_mut().zip(pixels) {
            let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let truth: Vec<u8> = truth.into_iter().map(u8::from).collect();
            arm.write_all(&values).context(WORDS)?;
            arm.write_all(&truth).context(WORDS)?;
        }
        self.counts.push(count);
        Ok(())
    }

    /// Hands on the pixels of all patients.
    pub(super) fn go_through(&mut self, arm: usize, next: &mut NextPixels<'_>) -> Result<()> {
        let file = &mut self.arms[arm];
        file.flush().context(WORDS)?;
        let file = file.get_mut();
        file.seek(SeekFrom::Start(0)).context(WORDS)?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut bytes = Vec::new();
        for &count in &self.counts {
            bytes.resize(5 * count, 0);
            file.read_exact(&mut bytes).context(WORDS)?;
            let (values, truth) = bytes.split_at(4 * count);
            let values = values.as_chunks().0.iter();
            let values: Vec<f32> = values.map(|&four| f32::from_le_bytes(four)).collect();
            let truth: Vec<bool> = truth.iter().map(|&lesion| lesion != 0).collect();
            next(&values, &truth)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_come_back_as_often_as_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path(), 2).unwrap();
        let first = (vec![0.5, -1.], vec![true, false]);
        let second = (vec![f32::MIN_POSITIVE], vec![true]);
        spool
            .add(vec![first.clone(), (vec![1., 2.], vec![false; 2])])
            .unwrap();
        spool
            .add(vec![second.clone(), (vec![3.], vec![false])])
            .unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        for _ in 0..2 {
            let mut all = Vec::new();
            let mut next = |values: &[f32], truth: &[bool]| {
                all.push((values.to_vec(), truth.to_vec()));
                Ok(())
            };
            spool.go_through(0, &mut next).unwrap();
            assert_eq!(all, [first.clone(), second.clone()]);
        }
        let mut sum = 0.;
        spool
            .go_through(1, &mut |values, _| {
                sum += values.iter().sum::<f32>();
                Ok(())
            })
            .unwrap();
        assert_eq!(sum, 6.);
    }
}
