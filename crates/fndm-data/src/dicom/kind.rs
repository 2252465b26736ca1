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
        ];
        // What one text ends with says nothing of how the next begins.
        let all = all.map(|text| words(&text)).join(&END.to_owned());
        let types = text(tags::IMAGE_TYPE);
        Facts {
            words: all,
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

/// A word of no text, between those of several.
const END: &str = "";

/// The words of a text, in small letters.
fn words(text: &str) -> Vec<String> {
    let mut text = text.to_lowercase();
    // The slash would take it apart. Not where more letters follow, as in "T1W/OBL".
    while let Some(at) = text.match_indices("w/o").map(|(at, _)| at).find(|at| {
        let next = text[at + 3..].chars().next();
        !next.is_some_and(char::is_alphanumeric)
    }) {
        text.replace_range(at..at + 3, " without ");
    }
    let words = text.split(|c: char| !(c.is_alphanumeric() || "+*".contains(c)));
    let words = words.filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Whether the words speak of contrast medium, and whether they say that there is none.
fn contrast(words: &[String]) -> (bool, bool) {
    let begins = |word: &str, all: &[&str]| all.iter().any(|start| word.starts_with(start));
    // "No FS" is another matter than "no contrast".
    let medium = |word: &str| {
        begins(word, &["gd", "gad", "+gd", "contrast", "kontrast", "enh"])
            || ["c", "+c", "ce", "km", "iv", "agent"].contains(&word)
    };
    let (mut with, mut without) = (false, false);
    for (at, word) in words.iter().map(String::as_str).enumerate() {
        let next = words.get(at + 1).map_or(END, String::as_str);
        match word {
            "pre" | "native" | "nativ" | "unenhanced" | "noncontrast" => without = true,
            "without" | "wo" | "non" | "no" => without |= medium(next) || next == END,
            // After an operation, or the fossa behind.
            "post" => with |= !begins(next, &["op", "surg", "rad", "rt", "treat", "ther"]),
            _ if begins(
                word,
                &[
                    "poster",
                    "postop",
                    "postsurg",
                    "postrad",
                    "posttreat",
                    "postther",
                ],
            ) => {}
            _ => {
                with |= begins(
                    word,
                    &[
                        "gd", "gad", "+c", "+gd", "post", "contrast", "enhanced", "t1ce", "t1gd",
                        "t1c+",
                    ],
                ) || ["ce", "c+", "km", "kontrast", "t1c", "t1+c"].contains(&word);
            }
        }
    }
    (with, without)
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
    let agent = facts.agent.trim().to_lowercase();
    let none = ["", "no", "none", "n", "0", "without", "n/a", "na", "-"];
    let first = words(&agent).into_iter().next().unwrap_or_default();
    // "NO CONTRAST" is none either.
    if !none.contains(&agent.as_str()) && !["no", "none", "without"].contains(&first.as_str()) {
        return (Some("t1ce"), format!("{said}, agent \"{}\"", facts.agent));
    }
    let (with, without) = contrast(&facts.words);
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
        told(&Facts {
            words: words(description),
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
            ("AX T1 W/O CONTRAST", Some("t1")),
            ("SAG T1 NO CONTRAST", Some("t1")),
            ("T1 POSTERIOR FOSSA", Some("t1")),
            ("AX T1 W CONTRAST", Some("t1ce")),
            ("AX T1 POSTGAD", Some("t1ce")),
            ("AX T1 POST NO FS", Some("t1ce")),
            ("T1 +C NO FATSAT", Some("t1ce")),
            ("T1 POST W/O FS", Some("t1ce")),
            ("T1W/OBL +C", Some("t1ce")),
            ("T1 W/O", Some("t1")),
            ("T1 SE postKM", Some("t1ce")),
            ("T1 post OP", Some("t1")),
            ("T1 without GAD", Some("t1")),
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
        for (agent, expected) in [
            ("NONE", "t1"),
            ("NO CONTRAST", "t1"),
            ("W/O", "t1"),
            ("0", "t1"),
            ("0.1 mmol/kg Gadovist", "t1ce"),
            ("0.5 M Dotarem", "t1ce"),
        ] {
            let found = kind("brain", "ORIGINAL", agent, [500., 10., 0.]);
            assert_eq!(found, Some(expected), "{agent}");
        }
    }
}
