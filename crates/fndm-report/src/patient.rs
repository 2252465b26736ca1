//! The page of one patient.

use std::io::{self, Write};

use serde::Serialize;

use crate::check::Check;
use crate::html::{self, Page, escape, href};
use crate::layer::{Kind, Layer, Place};
use crate::measure::{MOST_LISTED, Measure, millimetres};
use crate::{Error, Frame, Result, Section};

const VIEWER: &str = concat!(
    include_str!("assets/draw.js"),
    include_str!("assets/viewer.js"),
    include_str!("assets/start.js")
);

/// A slice of the viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SliceAt {
    /// Counted from 0 at the lower end of the stack.
    pub z: usize,
    /// Its index along its axis as the file stores it, counted from 0.
    pub stored: usize,
}

/// Everything that the page of a patient shows. Its layers are of the same slices, in the same order.
#[derive(Debug, Clone)]
pub struct PatientPage {
    /// The patient.
    pub id: String,
    /// What was done, in a sentence.
    pub summary: String,
    /// The page of all patients, relative to this one: a path and its words.
    pub back: Option<(String, String)>,
    /// The picture that the layers lie in.
    pub frame: Frame,
    /// The slices.
    pub slices: Vec<SliceAt>,
    /// Slices of the whole volume.
    pub total_slices: usize,
    /// Images, maps and masks; at least one image, which is shown first.
    pub layers: Vec<Layer>,
    /// Volumes and lesions.
    pub measures: Vec<Measure>,
    /// What the check of the input says.
    pub check: Option<Check>,
    /// What was left out, and why; what a user should know.
    pub notes: Vec<String>,
    /// Further sections: figures, settings, versions.
    pub sections: Vec<Section>,
}

/// What the page's program reads.
#[derive(Serialize)]
struct Data<'a> {
    id: &'a str,
    total: usize,
    slices: &'a [SliceAt],
    frame: &'a Frame,
    edges: [char; 4],
    layers: Vec<LayerData<'a>>,
    measures: Vec<MeasureData<'a>>,
}

#[derive(Serialize)]
struct LayerData<'a> {
    title: &'a str,
    kind: Kind,
    method: Option<&'a str>,
    place: Place,
    range: [f32; 2],
    height: usize,
    width: usize,
    columns: usize,
}

#[derive(Serialize)]
struct MeasureData<'a> {
    title: &'a str,
    areas: &'a [f64],
}

impl PatientPage {
    /// Whether everything fits.
    ///
    /// # Errors
    /// [`Error::Input`], naming what doesn't.
    pub fn check(&self) -> Result<()> {
        self.frame.check()?;
        let n = self.slices.len();
        let patient = |what: &str| format!("page of {}: {what}", self.id);
        if n == 0 {
            return Err(Error::input(patient("slices"), "at least one", "none"));
        }
        if !self.layers.iter().any(|layer| layer.kind == Kind::Image) {
            return Err(Error::input(patient("images"), "at least one", "none"));
        }
        for layer in &self.layers {
            let (slices, height, width) = layer.shape;
            if slices != n || height == 0 || width == 0 {
                let expected = format!("({n}, H, W)");
                let got = format!("{:?}", layer.shape);
                return Err(Error::input(patient(&layer.title), expected, got));
            }
        }
        for measure in &self.measures {
            if measure.areas.len() != n {
                let what = patient(&format!("areas of {}", measure.title));
                return Err(Error::input(
                    what,
                    n.to_string(),
                    measure.areas.len().to_string(),
                ));
            }
        }
        Ok(())
    }

    /// The page as one file of HTML, which needs no other.
    ///
    /// # Errors
    /// As [`PatientPage::check`].
    pub fn html(&self) -> Result<String> {
        let mut bytes = Vec::new();
        self.write_html(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| Error::input("a page", "UTF-8", "other bytes"))
    }

    /// Writes the page as [`html`](Self::html) has it, a piece at a time: beside its pictures no second copy of them is in memory.
    ///
    /// # Errors
    /// As [`PatientPage::check`]; [`Error::Write`].
    pub fn write_html(&self, out: &mut dyn Write) -> Result<()> {
        self.check()?;
        let layers = self.layers.iter().map(|layer| {
            let (_, height, width) = layer.shape;
            LayerData {
                title: &layer.title,
                kind: layer.kind,
                method: layer.method.as_deref(),
                place: layer.place.unwrap_or(Place {
                    top: 0.,
                    left: 0.,
                    height: self.frame.rows as f64,
                    width: self.frame.columns as f64,
                }),
                range: layer.range,
                height,
                width,
                columns: layer.atlas.columns,
            }
        });
        let measures = self.measures.iter().map(|measure| MeasureData {
            title: &measure.title,
            areas: &measure.areas,
        });
        let data = Data {
            id: &self.id,
            total: self.total_slices,
            slices: &self.slices,
            frame: &self.frame,
            edges: self.frame.edges(),
            layers: layers.collect(),
            measures: measures.collect(),
        };
        let json = html::json(&data)?;
        let page = Page {
            title: &format!("{} - lesions found in brain MR", self.id),
            body: self.body(),
            script: VIEWER,
            data: &|out| self.write_data(&json, out),
        };
        page.write(out).map_err(Error::Write)
    }

    /// What the page's program reads, and the layers' pictures.
    fn write_data(&self, json: &str, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "<script type=\"application/json\" id=\"data\">{json}</script>"
        )?;
        for (n, layer) in self.layers.iter().enumerate() {
            write!(out, "<script type=\"text/plain\" id=\"layer-{n}\">")?;
            html::write_base64(out, &layer.atlas.png)?;
            out.write_all(b"</script>\n")?;
        }
        Ok(())
    }

    fn body(&self) -> String {
        let mut out = String::from("<header>");
        if let Some((path, words)) = &self.back {
            out.push_str(&format!(
                "<nav aria-label=\"Report\"><a href=\"{}\">{}</a></nav>",
                href(path),
                escape(words)
            ));
        }
        out.push_str(&format!(
            "<h1>{}</h1><p>{}</p></header>\n<main id=\"main\">\n",
            escape(&self.id),
            escape(&self.summary)
        ));
        out.push_str(&viewer(&self.frame));
        out.push_str(&self.found());
        if let Some(check) = &self.check {
            out.push_str(&check.html());
        }
        if !self.notes.is_empty() {
            out.push_str("<section><h2>Left out, and to be known</h2><ul>");
            for note in &self.notes {
                out.push_str(&format!("<li>{}</li>", escape(note)));
            }
            out.push_str("</ul></section>\n");
        }
        out.extend(self.sections.iter().map(Section::html));
        out.push_str("</main>\n");
        out
    }

    /// Volumes and lesions, with a button for each lesion's slice where the viewer has it.
    fn found(&self) -> String {
        if self.measures.is_empty() {
            return String::new();
        }
        let mut out = String::from(
            "<section><h2>Volumes and lesions</h2><div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Volumes\"><table>\
             <caption>A lesion is a part of the mask that hangs together by faces, edges or corners of voxels (26 neighbours).</caption>\
             <thead><tr><th scope=\"col\">Mask</th><th scope=\"col\">Volume (mm\u{b3})</th><th scope=\"col\">Voxels</th>\
             <th scope=\"col\">Lesions</th><th scope=\"col\">Largest (mm\u{b3})</th></tr></thead><tbody>",
        );
        for measure in &self.measures {
            out.push_str(&format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&measure.title),
                millimetres(measure.mm3),
                measure.voxels,
                measure.lesions.len(),
                measure.largest().map_or_else(|| "-".into(), millimetres)
            ));
        }
        out.push_str("</tbody></table></div>");
        for measure in self.measures.iter().filter(|m| !m.lesions.is_empty()) {
            out.push_str(&self.lesions(measure));
        }
        out.push_str("</section>\n");
        out
    }

    fn lesions(&self, measure: &Measure) -> String {
        let title = escape(&measure.title);
        let mut out = format!(
            "<details><summary>Lesions: {title}</summary><div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Lesions: {title}\"><table>\
             <caption>Slices are counted from 1 at the lower end; the centre is in scanner space, in millimetres.</caption>\
             <thead><tr><th scope=\"col\">Number</th><th scope=\"col\">Volume (mm\u{b3})</th><th scope=\"col\">Slices</th>\
             <th scope=\"col\">Right, front, up</th><th scope=\"col\">Largest in</th></tr></thead><tbody>"
        );
        for (n, lesion) in measure.lesions.iter().take(MOST_LISTED).enumerate() {
            let [x, y, z] = lesion.centre;
            let at = lesion.largest_slice;
            let place = match self.slices.iter().any(|slice| slice.z == at) {
                true => format!(
                    "<button type=\"button\" class=\"go\" data-z=\"{at}\">slice {}</button>",
                    at + 1
                ),
                false => format!("slice {}", at + 1),
            };
            out.push_str(&format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{} to {}</td><td>{x:.1}, {y:.1}, {z:.1}</td><td>{place}</td></tr>",
                n + 1,
                millimetres(lesion.mm3),
                lesion.first_slice + 1,
                lesion.last_slice + 1
            ));
        }
        out.push_str("</tbody></table></div>");
        if measure.lesions.len() > MOST_LISTED {
            let rest = measure.lesions.len() - MOST_LISTED;
            out.push_str(&format!("<p>And {rest} smaller ones.</p>"));
        }
        out.push_str("</details>");
        out
    }

    /// The slice that the first mask is largest in, or the middle one: where the viewer begins.
    #[must_use]
    pub fn first_slice(&self) -> usize {
        first_of(&self.measures, self.slices.len())
    }
}

fn first_of(measures: &[Measure], slices: usize) -> usize {
    for measure in measures {
        let largest = (0..measure.areas.len()).max_by(|&a, &b| {
            // Of equal ones the lowest.
            measure.areas[a]
                .total_cmp(&measure.areas[b])
                .then(b.cmp(&a))
        });
        if let Some(at) = largest.filter(|&at| measure.areas[at] > 0.) {
            return at;
        }
    }
    slices / 2
}

fn viewer(frame: &Frame) -> String {
    let [left, right, top, bottom] = frame.edges();
    let words = frame.words();
    format!(
        include_str!("assets/viewer.html"),
        left = left,
        right = right,
        top = top,
        bottom = bottom,
        words = words
    )
}
