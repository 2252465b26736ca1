//! A patient turned to the axes of the slices, before anything is scaled or resized.

use std::fs::File;
use std::path::PathBuf;

use ndarray::{Array3, ArrayView3, CowArray, Ix3, Zip};

use super::head::HeadMean;
use super::resize::Pad;
use super::stacks::{Stacks, StacksOnDisk};
use super::{Geometry, MOST_SIDE, Plane, Preprocess};
use crate::affine::Reorder;
use crate::patient::{Grid, check_constant, check_finite};
use crate::{Error, Limits, Note, Patient, Result, Volume, nifti};

/// A patient turned to the axes of the slices, with its head found: what slices are cut from, and what a check of the input measures.
/// Its sequences are those of a [`Patient`] in memory, or on the disk: see [`Preprocess::turn_files`].
#[derive(Debug)]
pub struct Turned<'a> {
    pub(super) preprocess: &'a Preprocess,
    pub(crate) id: String,
    /// Names of the sequences.
    pub(crate) names: Vec<String>,
    pub(super) reorder: Reorder,
    pub(super) pad: Pad,
    pub(crate) geometry: Geometry,
    /// One stack (N, H, W) for each sequence.
    pub(crate) stacks: Stacks<'a>,
    /// The lesion mask, (N, H, W).
    pub(super) mask: Option<ArrayView3<'a, f32>>,
    /// What is odd about the files.
    pub(super) notes: Vec<Note>,
    /// The head, in the same axes.
    pub(crate) head: Array3<bool>,
    /// Millimetres between slices, rows and columns.
    pub(crate) spacing: [f64; 3],
    /// Indices of the slices that are used.
    pub(crate) used: Vec<usize>,
}

impl Turned<'_> {
    pub(crate) fn plane(&self) -> Plane {
        self.preprocess.plane
    }

    /// Names of the sequences.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A sequence by its number, (N, H, W), all slices of the volume from the lower end. Where the sequences are on the disk it is read.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a number that is too large; [`Error::Io`].
    pub fn sequence(&self, number: usize) -> Result<CowArray<'_, f32, Ix3>> {
        self.stacks.whole(number)
    }

    /// As [`find_identical_sequences`](crate::find_identical_sequences) of the patient.
    ///
    /// # Errors
    /// [`Error::Io`], where the sequences are on the disk.
    pub fn identical_sequences(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for (n, first) in self.names.iter().enumerate() {
            for (m, second) in self.names.iter().enumerate().skip(n + 1) {
                if self.are_identical(n, m)? {
                    found.push((first.clone(), second.clone()));
                }
            }
        }
        Ok(found)
    }

    fn are_identical(&self, first: usize, second: usize) -> Result<bool> {
        for z in 0..self.head.dim().0 {
            let (a, b) = (self.stacks.slice(first, z)?, self.stacks.slice(second, z)?);
            if a.iter().zip(&b).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Where the head comes from.
enum HeadSource {
    /// The mean of the sequences.
    Sequences(HeadMean),
    /// A mask of the user's.
    Given(Array3<bool>),
}

impl HeadSource {
    fn new(shape: (usize, usize, usize), sequences: usize) -> Self {
        Self::Sequences(HeadMean::of(shape, sequences))
    }

    fn given(mask: &ArrayView3<'_, f32>) -> Self {
        // In the order of the slices, whatever that of the file is.
        let mut head = Array3::from_elem(mask.dim(), false);
        Zip::from(&mut head)
            .and(mask)
            .for_each(|inside, &value| *inside = value > 0.);
        Self::Given(head)
    }

    fn add(&mut self, stack: &ArrayView3<'_, f32>) {
        if let Self::Sequences(mean) = self {
            mean.add(stack);
        }
    }
}

/// The axes of the slices, and the square that they are padded to.
struct Axes {
    reorder: Reorder,
    pad: Pad,
    geometry: Geometry,
    /// (N, H, W).
    shape: (usize, usize, usize),
    spacing: [f64; 3],
}

impl Preprocess {
    /// Turns a patient and finds its head.
    ///
    /// # Errors
    /// Those of [`Preprocess::apply`] that come before scaling.
    pub fn turn<'a>(&'a self, patient: &'a Patient) -> Result<Turned<'a>> {
        self.check()?;
        patient.check()?;
        let axes = self.axes(&patient.id, &Grid::of(patient.reference()?))?;
        let count =
            self.count_sequences(&patient.id, patient.sequences.iter().map(|(name, _)| name))?;
        let mut head = HeadSource::new(axes.shape, count);
        let (mut names, mut stacks) = (Vec::new(), Vec::new());
        for (name, volume) in &patient.sequences {
            let stack = axes.reorder.view(volume.data.view());
            if self.is_brain_mask(name) {
                head = HeadSource::given(&stack);
                continue;
            }
            head.add(&stack);
            names.push(name.clone());
            stacks.push(stack);
        }
        let turned = self.turned(patient.id.clone(), names, axes, head)?;
        Ok(Turned {
            mask: patient
                .mask
                .as_ref()
                .map(|m| turned.reorder.view(m.data.view())),
            notes: [turned.notes.as_slice(), &patient.notes()].concat(),
            stacks: Stacks::Memory(stacks),
            ..turned
        })
    }

    /// As [`Preprocess::turn`], of the NIfTI files of a patient's sequences, by their names. One volume is in memory at a time, and all of
    /// them lie turned in `file`, which is empty and open for reading and writing: a temporary one. A lesion mask isn't looked for.
    ///
    /// # Errors
    /// Those of [`nifti::read`] and [`Preprocess::turn`]; [`Error::Io`] when `file` can't be written.
    pub fn turn_files(
        &self,
        id: &str,
        files: &[(String, PathBuf)],
        limits: &Limits,
        file: File,
    ) -> Result<Turned<'_>> {
        self.check()?;
        let Some(((first, path), rest)) = files.split_first() else {
            return Err(Patient::no_sequence(id));
        };
        let volume = nifti::read(path, limits)?;
        let grid = Grid::of(&volume);
        check_finite(id, first, &volume)?;
        // As of volumes in memory: a constant one is told when all were found finite and of one grid.
        let mut constant = check_constant(id, first, &volume);
        let axes = self.axes(id, &grid)?;
        let mut stacks = StacksOnDisk::new(file, axes.shape);
        let count = self.count_sequences(id, files.iter().map(|(name, _)| name))?;
        let mut head = HeadSource::new(axes.shape, count);
        let mut add = |name: &str, volume: Volume| {
            let stack = axes.reorder.view(volume.data.view());
            if self.is_brain_mask(name) {
                head = HeadSource::given(&stack);
                return Ok(());
            }
            head.add(&stack);
            stacks.push(&stack)
        };
        add(first, volume)?;
        for (name, path) in rest {
            let volume = nifti::read(path, limits)?;
            grid.check_same(id, first, name, &Grid::of(&volume))?;
            check_finite(id, name, &volume)?;
            constant = constant.and_then(|()| check_constant(id, name, &volume));
            add(name, volume)?;
        }
        constant?;
        let names = files.iter().map(|(name, _)| name);
        let names = names.filter(|name| !self.is_brain_mask(name)).cloned();
        let turned = self.turned(id.to_owned(), names.collect(), axes, head)?;
        Ok(Turned {
            stacks: Stacks::Disk(stacks),
            ..turned
        })
    }

    fn is_brain_mask(&self, name: &str) -> bool {
        self.brain_mask.as_deref() == Some(name)
    }

    /// How many of these are sequences. The brain mask has to be among them, where there is to be one.
    fn count_sequences<'n>(
        &self,
        id: &str,
        names: impl Iterator<Item = &'n String>,
    ) -> Result<usize> {
        let names: Vec<&str> = names.map(String::as_str).collect();
        let count = names
            .iter()
            .filter(|name| !self.is_brain_mask(name))
            .count();
        match &self.brain_mask {
            Some(mask) if count == names.len() => {
                let what = format!("volumes of patient {id}");
                let expected = format!("a brain mask {mask} among them");
                Err(Error::config(what, expected, names.join(", ")))
            }
            _ if count == 0 => Err(Patient::no_sequence(id)),
            _ => Ok(count),
        }
    }

    fn axes(&self, id: &str, grid: &Grid) -> Result<Axes> {
        let reorder = Reorder::new(&grid.affine, self.plane.codes())?;
        let [slices, height, width] = reorder.from.map(|axis| grid.shape[axis]);
        let pad = Pad::square(height, width, self.crop_to, self.pad_to);
        if pad.size > MOST_SIDE {
            let what = format!("slices of patient {id}");
            let expected = format!("({MOST_SIDE}, {MOST_SIDE}) or smaller, after cropping");
            return Err(Error::shape(what, expected, &[height, width]));
        }
        let spacing = crate::affine::spacing(&grid.affine);
        let stack = [slices, height, width];
        Ok(Axes {
            geometry: Geometry::new(grid, reorder, stack, pad, self.image_size),
            spacing: reorder.from.map(|axis| spacing[axis]),
            reorder,
            pad,
            shape: (slices, height, width),
        })
    }

    /// The head, and the slices to use; the sequences are still to be filled in.
    fn turned(
        &self,
        id: String,
        names: Vec<String>,
        axes: Axes,
        head: HeadSource,
    ) -> Result<Turned<'_>> {
        let head = match head {
            HeadSource::Sequences(mean) => self.head.find(mean),
            HeadSource::Given(head) => head,
        };
        let used = self.chosen(&id, &head)?;
        Ok(Turned {
            preprocess: self,
            id,
            names,
            reorder: axes.reorder,
            pad: axes.pad,
            notes: axes.geometry.notes(),
            geometry: axes.geometry,
            stacks: Stacks::Memory(Vec::new()),
            mask: None,
            head,
            spacing: axes.spacing,
            used,
        })
    }
}
