//! What the index of an evaluation has of one patient, kept until those of all are known.

use fndm_report::Entry;
use serde::{Deserialize, Serialize};

use super::EvaluationPages;
use super::extremes::Extremes;

/// Name of the small picture.
const THUMBNAIL: &str = "thumbnail.png";

/// What the index has of one patient. As JSON it lacks the pictures, which are PNG files of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PagePart {
    id: String,
    numbers: Vec<Option<f64>>,
    notes: Vec<String>,
    /// In square millimetres.
    pixel_area: f64,
    extremes: Extremes,
    #[serde(skip)]
    thumbnail: Option<Vec<u8>>,
    /// The patient's page, relative to the index.
    #[serde(skip)]
    page: Option<String>,
}

impl PagePart {
    /// Names and bytes of the pictures.
    pub fn pictures(&self) -> impl Iterator<Item = (String, &[u8])> {
        let thumbnail = self.thumbnail.iter();
        let thumbnail = thumbnail.map(|png| (THUMBNAIL.to_owned(), png.as_slice()));
        thumbnail.chain(self.extremes.pictures())
    }

    /// The part with its pictures, which `read` gives by their names. `page` is the patient's page, relative to the index.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn with_pictures<E>(
        mut self,
        page: Option<&str>,
        read: &mut dyn FnMut(&str) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        self.thumbnail = Some(read(THUMBNAIL)?);
        self.extremes.give_pictures(page, read)?;
        self.page = page.map(String::from);
        Ok(self)
    }
}

impl EvaluationPages {
    /// What the index has of the one patient that was added; none where none was.
    #[must_use]
    pub fn into_part(mut self) -> Option<PagePart> {
        let Entry {
            id,
            numbers,
            notes,
            thumbnail,
            page,
            ..
        } = self.entries.pop()?;
        let (_, pixel_area) = self.pixel_areas.pop()?;
        Some(PagePart {
            id,
            numbers,
            notes,
            pixel_area,
            extremes: self.extremes,
            thumbnail,
            page,
        })
    }

    /// Adds a later patient, with its pictures. Joined in the order of one run, the index is that of one run.
    pub fn join(&mut self, part: PagePart) {
        self.entries.push(Entry {
            id: part.id.clone(),
            page: part.page,
            thumbnail: part.thumbnail,
            numbers: part.numbers,
            check: None,
            notes: part.notes,
        });
        self.pixel_areas.push((part.id, part.pixel_area));
        self.extremes.join(part.extremes);
    }
}
