//! Which sequence a series is, told by its words and its times.

use std::fmt;

use dicom_dictionary_std::tags;

use super::series::Series;
use crate::layout::common_name;

/// What a series is taken for, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kind {
    /// `flair`, `t1`, `t1ce`, `t2`, `pd`, `dwi`, `adc` or `swi`; none where it's none of these, or not known.
    pub sequence: Option<&'static str>,
    /// What in the header says so.
    pub reason: String,
    /// Whether the scanner calls it an image as acquired (`ImageType` ORIGINAL), not computed from others.
    pub original: bool,
}

impl Kind {
    /// Whether it's a sequence of this name, as models have them (`t1c`, `t1gd` and so on for `t1ce`).
    #[must_use]
    pub fn is(&self, sequence: &str) -> bool {
        self.sequence == Some(common_name(&sequence.to_ascii_lowercase()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = self.sequence.unwrap_or("not used");
        write!(f, "{sequence} ({})", self.reason)
    }
}

/// Words and times of a series, as far as its header has them.
struct Facts {
    /// Description, protocol and name of the sequence, in lower case.
    words: Vec<String>,
    description: String,
    types: Vec<String>,
    agent: String,
    echo: Option<f64>,
    repetition: Option<f64>,
    inversion: Option<f64>,
    b_value: Option<f64>,
}

impl Facts {
    fn has(&self, words: &[&str]) -> bool {
        self.words.iter().any(|word| words.contains(&word.as_str()))
    }

    /// Whether a word begins so: names of protocols run on (`t1_mprage_sag`, `flair3d`).
    fn begins(&self, starts: &[&str]) -> bool {
        let begins = |word: &String| starts.iter().any(|start| word.starts_with(start));
        self.words.iter().any(begins)
    }

    fn is_type(&self, kinds: &[&str]) -> bool {
        self.types.iter().any(|own| kinds.contains(&own.as_str()))
    }
}

impl Series {
    /// What the series is taken for: by the words of its description, of the protocol and of the sequence's name; where these say
    /// nothing, by repetition, echo and inversion time. A T1-weighted series is `t1ce` where `ContrastBolusAgent` names an agent or
    /// the words say so.
    ///
    /// Enhanced (multi-frame) objects have their times elsewhere: of them the words count alone.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let facts = self.facts();
        let original = !facts.is_type(&["DERIVED"]);
        let (sequence, reason) = told(&facts);
        Kind {
            sequence,
            reason,
            original,
        }
    }

    fn facts(&self) -> Facts {
        let text = |tag| self.header().map(|h| h.text(tag)).unwrap_or_default();
        let decimal = |tag| self.header().and_then(|h| h.decimal(tag));
        let description = self.description().to_owned();
        let all = [
            description.clone(),
            text(tags::PROTOCOL_NAME),
            text(tags::SEQUENCE_NAME),
        ]
        .join(" ")
        .to_lowercase();
        let words = all
            .split(|c: char| !(c.is_alphanumeric() || c == '+' || c == '*'))
            .filter(|word| !word.is_empty());
        let types = text(tags::IMAGE_TYPE);
        Facts {
            words: words.map(str::to_owned).collect(),
            description,
            types: types.split('\\').map(|t| t.trim().to_uppercase()).collect(),
            agent: text(tags::CONTRAST_BOLUS_AGENT),
            echo: decimal(tags::ECHO_TIME),
            repetition: decimal(tags::REPETITION_TIME),
            inversion: decimal(tags::INVERSION_TIME),
            b_value: self.header().and_then(|h| h.b_value),
        }
    }
}

fn told(facts: &Facts) -> (Option<&'static str>, String) {
    let said = format!("description \"{}\"", facts.description);
    if facts.is_type(&["LOCALIZER"]) || facts.begins(&["localizer", "localiser", "scout", "survey"])
    {
        return (None, format!("a localiser: {said}"));
    }
    // In protocols' names "mpr" is the acquisition too (t1_mpr_sag).
    let reformatted = facts.has(&["mpr"]) && facts.is_type(&["DERIVED"]);
    if reformatted || facts.has(&["mip"]) || facts.is_type(&["PROJECTION IMAGE", "MPR"]) {
        return (None, format!("a projection or reformatted images: {said}"));
    }
    if facts.begins(&["adc", "apparent"]) || facts.is_type(&["ADC"]) {
        return (Some("adc"), said);
    }
    if facts.has(&[
        "dti",
        "fa",
        "perfusion",
        "dsc",
        "dce",
        "asl",
        "fieldmap",
        "bold",
    ]) {
        return (None, said);
    }
    if facts.begins(&["dwi", "diff", "trace"]) || facts.is_type(&["DIFFUSION"]) {
        return (Some("dwi"), said);
    }
    if let Some(b) = facts.b_value.filter(|b| *b > 0.) {
        return (Some("dwi"), format!("b-value {b}"));
    }
    if facts.begins(&["swi", "swan", "venobold", "t2*", "t2star", "hemo"]) {
        return (Some("swi"), said);
    }
    let t1 = facts.begins(&[
        "t1", "mprage", "mpr", "spgr", "fspgr", "bravo", "tfl", "vibe",
    ]);
    if facts.begins(&["flair", "tirm", "darkfluid", "space_ir"]) && !t1
        || facts.has(&["dark"]) && facts.has(&["fluid"])
    {
        return (Some("flair"), said);
    }
    if t1 {
        return weighted_t1(facts, said);
    }
    if facts.begins(&["t2"]) {
        return (Some("t2"), said);
    }
    if facts.has(&["pd", "pdw"]) || facts.begins(&["proton"]) {
        return (Some("pd"), said);
    }
    by_times(facts)
}

/// With an agent or without.
fn weighted_t1(facts: &Facts, said: String) -> (Option<&'static str>, String) {
    let none = ["", "no", "none", "n", "0", "without"];
    let agent = facts.agent.to_lowercase();
    if !none.contains(&agent.as_str()) {
        return (Some("t1ce"), format!("{said}, agent \"{}\"", facts.agent));
    }
    let without = facts.has(&[
        "pre",
        "without",
        "native",
        "nativ",
        "wo",
        "unenhanced",
        "noncontrast",
        "non",
    ]);
    let with = facts.begins(&[
        "gd", "gad", "+c", "+gd", "post", "contrast", "enhanced", "t1ce", "t1gd", "t1c+",
    ]) || facts.has(&["ce", "c+", "km", "kontrast", "t1c", "t1+c"]);
    if with && !without {
        return (Some("t1ce"), said);
    }
    (Some("t1"), format!("{said}, no agent"))
}

/// By repetition, echo and inversion time in milliseconds, at 1.5 to 3 T.
fn by_times(facts: &Facts) -> (Option<&'static str>, String) {
    let known = |time: Option<f64>| time.filter(|time| *time > 0.);
    let (Some(repetition), Some(echo)) = (known(facts.repetition), known(facts.echo)) else {
        let said = format!("description \"{}\", no times", facts.description);
        return (None, said);
    };
    let inversion = facts.inversion.unwrap_or(0.);
    let times = format!("TR {repetition}, TE {echo}, TI {inversion} ms");
    if (1500. ..3500.).contains(&inversion) && repetition > 4000. {
        return (Some("flair"), times);
    }
    if echo <= 30. && repetition <= 3000. {
        return weighted_t1(facts, times);
    }
    if echo >= 70. && repetition >= 2000. && inversion < 1500. {
        return (Some("t2"), times);
    }
    (None, times)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(description: &str, types: &str, agent: &str, times: [f64; 3]) -> Option<&'static str> {
        let lower = description.to_lowercase();
        let words = lower
            .split(|c: char| !(c.is_alphanumeric() || c == '+' || c == '*'))
            .filter(|word| !word.is_empty());
        told(&Facts {
            words: words.map(str::to_owned).collect(),
            description: description.into(),
            types: types.split('\\').map(str::to_owned).collect(),
            agent: agent.into(),
            repetition: Some(times[0]),
            echo: Some(times[1]),
            inversion: Some(times[2]),
            b_value: None,
        })
        .0
    }

    /// Descriptions as scanners of three makers write them.
    #[test]
    fn descriptions() {
        let none = [0.; 3];
        for (description, expected) in [
            ("Ax T2 FLAIR", Some("flair")),
            ("t2_tirm_tra_dark-fluid_p2", Some("flair")),
            ("FLAIR_3D", Some("flair")),
            ("t1_mpr_sag_p2_iso", Some("t1")),
            ("Sag CUBE T1 FLAIR", Some("t1")),
            ("3D BRAVO +C", Some("t1ce")),
            ("T1W_3D_TFE_post", Some("t1ce")),
            ("AX T1 SE GAD", Some("t1ce")),
            ("T1 pre contrast", Some("t1")),
            ("T1 non contrast", Some("t1")),
            ("T2W_TSE", Some("t2")),
            ("ep2d_diff_3scan_trace_p2_ADC", Some("adc")),
            ("ADC (10^-6 mm2/s)", Some("adc")),
            ("DWI b1000", Some("dwi")),
            ("t2*_gre", Some("swi")),
            ("SWI_Images", Some("swi")),
            ("3-plane localizer", None),
            ("Survey", None),
            ("MIP_SWI", None),
            ("DTI 64", None),
            ("", None),
        ] {
            let got = kind(description, "ORIGINAL\\PRIMARY", "", none);
            assert_eq!(got, expected, "{description}");
        }
        let reformatted = kind("T1 MPR", "DERIVED\\SECONDARY", "", none);
        assert_eq!(reformatted, None);
    }

    /// Times of common protocols at 1.5 and 3 T, without a word.
    #[test]
    fn times() {
        for (times, expected) in [
            ([9000., 120., 2500.], Some("flair")),
            ([8000., 90., 2400.], Some("flair")),
            ([500., 10., 0.], Some("t1")),
            ([2300., 2.9, 900.], Some("t1")),
            ([4000., 100., 0.], Some("t2")),
            ([5000., 60., 150.], None),
        ] {
            assert_eq!(kind("brain", "ORIGINAL", "", times), expected, "{times:?}");
        }
        assert_eq!(
            kind("brain", "ORIGINAL", "Gadovist", [500., 10., 0.]),
            Some("t1ce")
        );
        assert_eq!(
            kind("brain", "ORIGINAL", "NONE", [500., 10., 0.]),
            Some("t1")
        );
    }
}
